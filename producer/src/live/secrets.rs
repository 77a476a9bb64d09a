//! What comes from a Secret: read at each attempt, since a corrected one is mounted anew, and never to be read in a log or on `/status`.

use std::path::PathBuf;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};
use tapeline_api::pipeline::SecretKeyRef;
use tapeline_api::pipeline::live::{API_KEY_FILE, SecretFile};
use tapeline_api::report::{Problem, ProblemClass};

use crate::halt::problem;

/// As much of what a feed says as is shown.
const SHOWN: usize = 200;
/// What needs no escape in a URL (RFC 3986).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The Secrets of a source, mounted in a folder.
#[derive(Debug, Clone)]
pub struct Secrets {
    folder: PathBuf,
    /// By file.
    references: Vec<(String, SecretKeyRef)>,
}

impl Secrets {
    /// The Secrets in `folder`, one of which may be an API key.
    #[must_use]
    pub fn new(folder: PathBuf, files: Vec<SecretFile<'_>>) -> Self {
        Self { folder, references: files.into_iter().map(|file| (file.file, file.reference.clone())).collect() }
    }

    /// The API key, if there is to be one.
    ///
    /// # Errors
    /// It cannot be read, or is empty.
    pub fn api_key(&self) -> Result<Option<SecretString>, Problem> {
        let reference = self.references.iter().find(|(file, _)| file == API_KEY_FILE);
        reference.map(|(file, reference)| self.read(file, reference)).transpose()
    }

    /// The value in `file`, which is that of `reference`, without the end of the line that editors leave.
    ///
    /// # Errors
    /// It cannot be read, or is empty.
    pub fn read(&self, file: &str, reference: &SecretKeyRef) -> Result<SecretString, Problem> {
        let (name, key) = (&reference.name, &reference.key);
        let denied = |what: String| problem(ProblemClass::FeedDenied, format!("the key \"{key}\" of the Secret \"{name}\" {what}"));
        let text = std::fs::read_to_string(self.folder.join(file)).map_err(|error| denied(format!("cannot be read where it is mounted: {error}")))?;
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() { Err(denied("is empty; put the API key there".to_owned())) } else { Ok(text.to_owned().into()) }
    }

    /// That the feed does not take what it is shown, which any of the Secrets may be.
    #[must_use]
    pub fn denied(&self, said: &str) -> Problem {
        let mut places: Vec<String> = self.references.iter().map(|(_, of)| format!("the key \"{}\" of the Secret \"{}\"", of.key, of.name)).collect();
        places.dedup();
        let remedy = if places.is_empty() { "name the Secret that holds a key".to_owned() } else { format!("look at {}", places.join(" and at ")) };
        problem(ProblemClass::FeedDenied, format!("the feed refuses access ({said}); {remedy}"))
    }
}

/// `text` with each `${name}` replaced.
#[must_use]
pub fn fill(text: &str, values: &[(&str, &str)]) -> String {
    let mut pieces = text.split("${");
    let mut filled = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let value = piece.split_once('}').and_then(|(name, rest)| Some((values.iter().find(|(known, _)| *known == name)?.1, rest)));
        match value {
            Some((value, rest)) => filled.extend([value, rest]),
            None => filled.extend(["${", piece]),
        }
    }
    filled
}

/// `url` with the API key in its place.
#[must_use]
pub fn fill_url(url: &str, key: Option<&SecretString>) -> String {
    let key = key.map(|key| utf8_percent_encode(key.expose_secret(), ESCAPED).to_string()).unwrap_or_default();
    fill(url, &[("apiKey", &key)])
}

/// What a feed says, fit to be shown: without the API key, in one line, not too long.
#[must_use]
pub fn shown(said: &str, key: Option<&SecretString>) -> String {
    let said = match key.map(ExposeSecret::expose_secret) {
        Some(key) if !key.is_empty() => said.replace(key, "***"),
        _ => said.to_owned(),
    };
    said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tapeline_api::pipeline::live::{Http, WebSocket};

    use super::*;

    fn secrets(folder: &std::path::Path) -> Secrets {
        let wish: WebSocket = serde_json::from_value(json!({"url": "ws://a/", "apiKeySecretRef": {"name": "finnhub", "key": "token"}})).unwrap();
        Secrets::new(folder.to_owned(), wish.secret_files())
    }

    #[test]
    fn a_key_is_read_without_the_end_of_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = secrets(folder.path());
        let missing = secrets.api_key().unwrap_err();
        assert_eq!(missing.class, ProblemClass::FeedDenied);
        assert!(missing.message.starts_with("the key \"token\" of the Secret \"finnhub\" cannot be read"), "{}", missing.message);
        let file = folder.path().join(API_KEY_FILE);
        std::fs::write(&file, "\n").unwrap();
        assert!(secrets.api_key().unwrap_err().message.ends_with("is empty; put the API key there"));
        std::fs::write(&file, "s3cr/t +\r\n").unwrap();
        let key = secrets.api_key().unwrap().unwrap();
        assert_eq!(key.expose_secret(), "s3cr/t +");
        assert_eq!(fill_url("wss://f.test/?a=${b}&token=${apiKey}", Some(&key)), "wss://f.test/?a=${b}&token=s3cr%2Ft%20%2B");
        assert_eq!(shown("no\nsuch key: s3cr/t +", Some(&key)), "no such key: ***");
        assert_eq!(Secrets::new(folder.path().to_owned(), Vec::new()).api_key().unwrap().map(|_| ()), None);
    }

    #[test]
    fn whoever_is_refused_reads_which_secrets_to_look_at() {
        let header = |name: &str, key: &str| json!({"name": name, "valueFrom": {"secretKeyRef": {"name": "users", "key": key}}});
        let message = |more: serde_json::Value| {
            let mut wish =
                json!({"url": "https://a/", "interval": {"every": "10s"}, "headers": [header("Authorization", "token"), header("X-Tenant", "tenant")]});
            wish.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let wish: Http = serde_json::from_value(wish).unwrap();
            Secrets::new("/nowhere".into(), wish.secret_files()).denied("401").message
        };
        let headers = r#"the key "token" of the Secret "users" and at the key "tenant" of the Secret "users""#;
        assert_eq!(message(json!({})), format!("the feed refuses access (401); look at {headers}"));
        let key = json!({"apiKeySecretRef": {"name": "api", "key": "key"}});
        assert_eq!(message(key), format!("the feed refuses access (401); look at the key \"key\" of the Secret \"api\" and at {headers}"));
        assert_eq!(message(json!({"headers": []})), "the feed refuses access (401); name the Secret that holds a key");
    }

    #[test]
    fn what_is_filled_in_is_not_looked_at_again() {
        assert_eq!(fill("${a} ${b} ${a", &[("a", "${b}"), ("b", "2")]), "${b} 2 ${a");
    }
}
