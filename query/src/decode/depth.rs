//! How deeply a message may be nested. arrow's reader writes a value that does not fit into its error by calling itself for each level (59.3), which ends the process at
//! some ten thousand of them: one message must not be able to do that.

/// The deepest nesting of a message. serde_json's own limit is 128, and nobody is known to have met it.
pub(super) const MAX_DEPTH: usize = 1024;

/// Whether `text` is nested more deeply than [`MAX_DEPTH`]. What has fewer brackets than that is not, and counting them is a hundredth of the time of reading it.
pub(super) fn is_too_deep(text: &[u8]) -> bool {
    let brackets = text.iter().filter(|&&byte| byte | 0x20 == b'{').count(); // '[' differs from '{' by this bit
    brackets > MAX_DEPTH && depth(text) > MAX_DEPTH
}

/// The deepest nesting of `text`, brackets in texts left out.
fn depth(text: &[u8]) -> usize {
    let (mut now, mut deepest) = (0_usize, 0);
    let (mut in_text, mut escaped) = (false, false);
    for &byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            _ if in_text => {}
            b'[' | b'{' => {
                now += 1;
                deepest = deepest.max(now);
            }
            b']' | b'}' => now = now.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_open_brackets_are_depth() {
        assert_eq!(depth(br#"{"a": [1, {"b": "[[[\"[{"}], "c": []}"#), 3);
        assert!(is_too_deep("[".repeat(MAX_DEPTH + 1).as_bytes()));
        assert!(is_too_deep(r#"{"a":"#.repeat(MAX_DEPTH + 1).as_bytes()));
        assert!(!is_too_deep(format!("[{}]", "{},".repeat(100_000)).as_bytes()));
        assert!(!is_too_deep(format!("\"{}", "[".repeat(100_000)).as_bytes()));
    }
}
