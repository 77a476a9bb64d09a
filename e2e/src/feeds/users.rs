//! Users in the shape of randomuser.me, made up from a seed and a number.

use serde_json::{Value, json};

const FIRST: &[&str] = &["Ada", "Grace", "Edsger", "Barbara", "Donald", "Radia", "Leslie", "Tony"];
const LAST: &[&str] = &["Lovelace", "Hopper", "Dijkstra", "Liskov", "Knuth", "Perlman", "Lamport", "Hoare"];

/// An answer with `count` users, of whom the first is number `from`.
#[must_use]
pub(super) fn answer(seed: u64, from: u64, count: u64) -> Value {
    let users: Vec<Value> = (from..from + count).map(|number| user(seed, number)).collect();
    json!({"results": users, "info": {"seed": format!("{seed:016x}"), "results": count, "page": 1, "version": "1.4"}})
}

/// The id of the user `number`.
#[must_use]
pub fn uuid(seed: u64, number: u64) -> String {
    format!("{:08x}-0000-4000-8000-{number:012x}", seed & 0xffff_ffff)
}

fn user(seed: u64, number: u64) -> Value {
    let of = |names: &[&'static str], spread: u64| -> &'static str {
        let at = (number / spread).wrapping_add(seed) % names.len() as u64;
        names.get(usize::try_from(at).unwrap_or(0)).copied().unwrap_or_default()
    };
    let (first, last) = (of(FIRST, 1), of(LAST, FIRST.len() as u64));
    json!({
        "gender": if number.is_multiple_of(2) { "female" } else { "male" },
        "name": {"title": "Dr", "first": first, "last": last},
        "location": {"street": {"number": number % 1000, "name": "Main Street"}, "city": "Austin", "country": "United States", "postcode": 70_000 + number % 9000},
        "email": format!("{}.{}.{number}@example.com", first.to_lowercase(), last.to_lowercase()),
        "login": {"uuid": uuid(seed, number), "username": format!("user{number}")},
        "dob": {"date": "1990-01-01T00:00:00.000Z", "age": 20 + number % 60},
        "nat": "US"
    })
}
