//! Keys by their names in the browser's events, such as `Tab`, `Shift+Tab`, `ArrowDown`, `/`.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// WebDriver's letters for keys that write none.
const NAMED: [(&str, char); 17] = [
    ("Alt", '\u{e00a}'),
    ("ArrowDown", '\u{e015}'),
    ("ArrowLeft", '\u{e012}'),
    ("ArrowRight", '\u{e014}'),
    ("ArrowUp", '\u{e013}'),
    ("Backspace", '\u{e003}'),
    ("Control", '\u{e009}'),
    ("Delete", '\u{e017}'),
    ("End", '\u{e010}'),
    ("Enter", '\u{e007}'),
    ("Escape", '\u{e00c}'),
    ("Home", '\u{e011}'),
    ("PageDown", '\u{e00f}'),
    ("PageUp", '\u{e00e}'),
    ("Shift", '\u{e008}'),
    ("Space", '\u{e00d}'),
    ("Tab", '\u{e004}'),
];

/// The WebDriver actions that hold down one after the other and let them go in reverse.
///
/// # Errors
/// There is no such key.
pub(super) fn press(keys: &str) -> Result<Value> {
    // `+` itself, and `Control++`.
    let names: Vec<&str> = match keys.strip_suffix('+') {
        Some("") => vec!["+"],
        Some(held) => held.trim_end_matches('+').split('+').chain(["+"]).collect(),
        None => keys.split('+').collect(),
    };
    let keys: Vec<char> = names.into_iter().map(key).collect::<Result<_>>()?;
    let action = |kind: &str, key: char| json!({"type": kind, "value": key});
    let down = keys.iter().map(|&key| action("keyDown", key));
    let up = keys.iter().rev().map(|&key| action("keyUp", key));
    Ok(json!({"actions": [{"type": "key", "id": "keyboard", "actions": down.chain(up).collect::<Vec<_>>()}]}))
}

fn key(name: &str) -> Result<char> {
    if let Some(&(_, key)) = NAMED.iter().find(|(known, _)| *known == name) {
        return Ok(key);
    }
    let mut letters = name.chars();
    let letter = letters.next().filter(|_| letters.next().is_none());
    letter.with_context(|| format!("no key {name:?}; give a letter or one of {}", NAMED.map(|(name, _)| name).join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_held_and_let_go() {
        let actions = |keys: &str| press(keys).unwrap().pointer("/actions/0/actions").unwrap().clone();
        assert_eq!(actions("Tab"), json!([{"type": "keyDown", "value": "\u{e004}"}, {"type": "keyUp", "value": "\u{e004}"}]));
        let shifted = actions("Shift+Tab");
        assert_eq!(shifted.pointer("/0/value").unwrap(), "\u{e008}");
        assert_eq!(shifted.pointer("/3/value").unwrap(), "\u{e008}");
        assert_eq!(actions("+").pointer("/0/value").unwrap(), "+");
        assert_eq!(actions("Control++").pointer("/1/value").unwrap(), "+");
        assert!(press("Tabulator").unwrap_err().to_string().contains("no key \"Tabulator\""));
    }
}
