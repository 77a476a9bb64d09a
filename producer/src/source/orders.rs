//! A made-up shop. The seed and the tick decide everything about an order, so a tick is the same bytes whenever it is sent, and sums over all of them are known.

use std::time::Duration;

use futures::future::LocalBoxFuture;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tapeline_api::pipeline::orders::Orders as Wish;
use tapeline_api::report::ProblemClass;

use super::Source;
use crate::halt::{Halt, problem};
use crate::kafka::Fault;
use crate::kafka::sender::Sender;
use crate::noise::{Fnv, Noise};
use crate::search::Position;
use crate::trade::Message;

/// What is sold, and at which price in cents.
const PRODUCTS: [(&str, u32); 5] = [("Beans 1 kg", 1875), ("Espresso machine", 24_900), ("Filter papers", 399), ("Grinder", 8950), ("Kettle", 3499)];
const REGIONS: [&str; 4] = ["East", "North", "South", "West"];
const CUSTOMERS: u32 = 500;
/// An order has from one to so many pieces.
const PIECES: u32 = 5;
/// Discounts are from 0 to so many percent.
const DISCOUNT: u32 = 10;
/// After so many messages the other tasks get their turn, should the brokers be faster than this one.
const TURN: u64 = 64;

/// Orders that are made up.
#[derive(Debug)]
pub struct Orders {
    wish: Wish,
}

/// An order, as a consumer of the topic sees it.
#[derive(Serialize)]
#[allow(clippy::struct_field_names, reason = "the fields of the message")]
struct Order<'a> {
    order_id: i64,
    ordered_at: &'a str,
    customer: String,
    product: &'static str,
    region: &'static str,
    quantity: u32,
    unit_price: f64,
}

impl Orders {
    /// The shop of `wish`.
    #[must_use]
    pub const fn new(wish: Wish) -> Self {
        Self { wish }
    }

    /// How many ticks there are in all: one for each order.
    fn count(&self) -> u64 {
        u64::try_from(self.wish.count).unwrap_or(0)
    }

    /// The order of a tick; nothing once ids or times are used up.
    #[must_use]
    pub fn message(&self, tick: u64) -> Option<Message> {
        let number = i64::try_from(tick).ok()?;
        let order_id = self.wish.first_id.checked_add(number)?;
        let since = i64::try_from(self.wish.spacing.get().as_millis()).ok()?.checked_mul(number)?;
        let ordered_at: Timestamp = self.wish.begin.0.checked_add(SignedDuration::from_millis(since)).ok()?;
        let mut noise = Noise::of(&[b"order", &self.wish.seed.to_le_bytes(), &tick.to_le_bytes()]);
        let (product, full_price) = pick(&PRODUCTS, &mut noise)?;
        let region = pick(&REGIONS, &mut noise)?;
        let quantity = 1 + noise.below(PIECES);
        let cents = full_price - full_price * noise.below(DISCOUNT + 1) / 100;
        let customer = format!("customer-{}", 1 + noise.below(CUSTOMERS));
        let ordered_at = ordered_at.to_string();
        // Hundredths are written as they are: a double's shortest text is theirs.
        let order = Order { order_id, ordered_at: &ordered_at, customer, product, region, quantity, unit_price: f64::from(cents) / 100.0 };
        let payload = serde_json::to_vec(&order).ok()?;
        let mut check = Fnv::default();
        check.add(&payload);
        Some(Message { tick, payload, key: None, records: 1, last_id: order_id, check: Some(check.get()) })
    }
}

impl Source for Orders {
    /// Looks whether the topic holds what this shop sends: half of one and half of another would have the sums of neither.
    fn resume(&mut self, position: &mut Position) -> Result<(), Halt> {
        let Some(last) = &position.last else { return Ok(()) };
        if last.stamp.check.is_some() && self.message(last.tick).is_some_and(|message| message.check == last.stamp.check) {
            return Ok(());
        }
        Err(Halt::Failed(problem(
            ProblemClass::InvalidSettings,
            format!(
                "the topic holds other orders that this producer sent (tick {}): restore seed, firstId, begin and spacing, or give the producer another name, under \
                 which it begins with the first order",
                last.tick
            ),
        )))
    }

    fn run<'a>(&'a mut self, position: &'a Position, sender: &'a Sender) -> LocalBoxFuture<'a, Result<(), Fault>> {
        Box::pin(async move {
            let mut clock = self.wish.interval.as_ref().map(|interval| {
                // An interval of nothing is refused by the resource's rules, and would panic here.
                let mut clock = tokio::time::interval(interval.get().max(Duration::from_millis(1)));
                clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                clock
            });
            for tick in (position.floor..self.count()).filter(|tick| !position.present.contains_key(tick)) {
                if let Some(clock) = &mut clock {
                    clock.tick().await;
                }
                let Some(message) = self.message(tick) else { return Err(Fault::Broken("ids or times are used up".to_owned())) };
                sender.send(&message).await?;
                if tick.is_multiple_of(TURN) {
                    tokio::task::yield_now().await;
                }
            }
            sender.settled().await
        })
    }

    fn goal(&self) -> Option<u64> {
        Some(self.count())
    }
}

fn pick<T: Copy>(among: &[T], noise: &mut Noise) -> Option<T> {
    let at = noise.below(u32::try_from(among.len()).ok()?);
    among.get(usize::try_from(at).ok()?).copied()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::search::{Last, Stamp};

    fn shop(changes: serde_json::Value) -> Orders {
        let mut wish = serde_json::json!({"count": 10_000, "seed": 7, "begin": "2024-08-19T00:00:00Z"});
        wish.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        Orders::new(serde_json::from_value(wish).unwrap())
    }

    fn text(orders: &Orders, tick: u64) -> String {
        String::from_utf8(orders.message(tick).unwrap().payload).unwrap()
    }

    /// Cents by region, as `examples/0-sales/README.md` prints them.
    const REVENUE: [(&str, u64); 4] = [("East", 55_470_389), ("North", 54_400_099), ("South", 56_784_276), ("West", 56_050_087)];

    #[test]
    fn an_order_never_changes() {
        let orders = shop(serde_json::json!({"firstId": 5}));
        assert_eq!(
            text(&orders, 0),
            r#"{"order_id":5,"ordered_at":"2024-08-19T00:00:00Z","customer":"customer-500","product":"Grinder","region":"North","quantity":1,"unit_price":81.45}"#
        );
        assert_eq!(
            text(&orders, 1_439),
            r#"{"order_id":1444,"ordered_at":"2024-08-19T23:59:00Z","customer":"customer-210","product":"Kettle","region":"East","quantity":1,"unit_price":34.3}"#
        );
    }

    #[test]
    fn the_sums_of_the_example_are_known() {
        #[derive(serde::Deserialize)]
        struct Seen {
            region: String,
            quantity: u64,
            unit_price: f64,
        }

        let orders = shop(serde_json::json!({}));
        let mut revenue: BTreeMap<String, u64> = BTreeMap::new();
        for tick in 0..orders.count() {
            let Seen { region, quantity, unit_price } = serde_json::from_slice(&orders.message(tick).unwrap().payload).unwrap();
            let cents = format!("{unit_price:.2}").replace('.', "").parse::<u64>().unwrap();
            *revenue.entry(region).or_default() += cents * quantity;
        }
        assert_eq!(revenue, REVENUE.into_iter().map(|(region, cents)| (region.to_owned(), cents)).collect());
    }

    #[test]
    fn a_shop_goes_on_in_its_own_topic_only() {
        let mut orders = shop(serde_json::json!({}));
        let at = |check| {
            let stamp = Stamp { last_id: 24, check };
            let last = Some(Last { tick: 23, stamp, payload: None });
            Position { floor: 24, before: Some(stamp), present: BTreeMap::new(), end: 24, published: 24, last, ends: BTreeMap::new() }
        };
        let check = orders.message(23).unwrap().check;
        assert_eq!(orders.resume(&mut at(check)), Ok(()));
        let mut more = shop(serde_json::json!({"count": 20_000}));
        assert_eq!(more.resume(&mut at(check)), Ok(()), "more orders are the same orders");
        for other in [serde_json::json!({"seed": 8}), serde_json::json!({"firstId": 2}), serde_json::json!({"spacing": "2m"})] {
            assert!(matches!(shop(other).resume(&mut at(check)), Err(Halt::Failed(_))));
        }
        assert!(matches!(orders.resume(&mut at(None)), Err(Halt::Failed(_))));
    }

    #[test]
    fn nothing_comes_once_ids_are_used_up() {
        assert_eq!(shop(serde_json::json!({"firstId": i64::MAX})).message(1), None);
    }
}
