//! The container's termination message: what `kubectl describe pod` and the operator read of a run that failed, long after its `/status` is gone.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

/// Where Kubernetes takes it from unless told otherwise.
pub const PATH: &str = "/dev/termination-log";
/// Kubernetes cuts what is longer.
const LONGEST: usize = 4096;

/// Leaves `message` at `path`. Kubernetes has made the file; outside of a pod there is none, and none is made.
pub fn leave(path: &Path, message: &str) {
    let end = message.char_indices().map(|(at, character)| at + character.len_utf8()).take_while(|end| *end <= LONGEST).last().unwrap_or(0);
    let text = message.get(..end).unwrap_or_default();
    let written = OpenOptions::new().write(true).truncate(true).open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    if let Err(error) = written {
        tracing::warn!(%error, path = %path.display(), "the reason for the end is in the log only");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_left_where_kubernetes_looks_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("termination-log");
        leave(&path, "nobody reads it");
        assert!(!path.exists());
        std::fs::write(&path, "of the attempt before").unwrap();
        leave(&path, "topic t does not exist");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "topic t does not exist");
        leave(&path, &"ä".repeat(3000));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "ä".repeat(2048));
    }
}
