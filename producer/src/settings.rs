//! Reads what the operator wrote: the settings, and the credentials beside them.

use std::path::{Path, PathBuf};

use secrecy::SecretString;
use tapeline_api::pipeline::file::File;
use tapeline_api::pipeline::producers::Replay;
use tapeline_api::report::{Problem, ProblemClass};
use tapeline_api::settings::{FormatError, ProducerSettings, parse};

use crate::halt::{Halt, problem};
use crate::options::Options;

/// Why the settings are not usable. The process stays up and says so, since a restart would not change them.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file is not there or cannot be read.
    #[error("the settings {} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not those of this version.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// They ask for nothing, or for two things.
    #[error("the settings name {0}; a producer has exactly one source, and a replay one file")]
    Ambiguous(&'static str),
    /// A source needs MySQL, and there is none.
    #[error("the source takes symbols from MySQL, but the pipeline has no spec.mysql")]
    NoMySql,
}

impl From<SettingsError> for Halt {
    fn from(error: SettingsError) -> Self {
        Self::Failed(problem(ProblemClass::InvalidSettings, error.to_string()))
    }
}

/// Reads the settings.
pub fn load(path: &Path) -> Result<ProducerSettings, SettingsError> {
    let text = std::fs::read(path).map_err(|source| SettingsError::Read { path: path.to_owned(), source })?;
    Ok(parse(&text)?)
}

/// Where the bars of a replay are.
pub fn recording(options: &Options, replay: &Replay) -> Result<PathBuf, SettingsError> {
    match (&replay.file, &replay.config_map_key_ref) {
        (Some(file), None) => Ok(options.image_data_dir.join(file)),
        (None, Some(reference)) => Ok(options.data_dir.join(reference.key.as_str())),
        (None, None) => Err(SettingsError::Ambiguous("no file")),
        (Some(_), Some(_)) => Err(SettingsError::Ambiguous("two files")),
    }
}

/// Where the messages of a file are.
#[must_use]
pub fn hand_fed(options: &Options, file: &File) -> PathBuf {
    options.data_dir.join(file.config_map_key_ref.key.as_str())
}

/// A user and a password. The password does not appear in logs.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The user.
    pub username: String,
    /// The password.
    pub password: SecretString,
}

impl Credentials {
    /// Reads `username` and `password` in `folder`; the line's end that editors leave is not part of them. Read at each attempt, so that a corrected Secret is
    /// found where it is mounted anew.
    pub fn read(folder: &Path) -> Result<Self, Problem> {
        let read = |name: &str| match std::fs::read_to_string(folder.join(name)) {
            Ok(text) => Ok(text.trim_end_matches(['\r', '\n']).to_owned()),
            Err(error) => Err(problem(ProblemClass::StoreDenied, format!("the credentials' {name} cannot be read: {error}"))),
        };
        Ok(Self { username: read("username")?, password: read("password")?.into() })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use rstest::rstest;
    use secrecy::ExposeSecret;
    use serde_json::{Value, json};

    use super::*;

    fn document() -> Value {
        json!({
            "formatVersion": 1, "namespace": "shop", "pipeline": "market", "producer": "history",
            "kafka": {"bootstrapServers": "127.0.0.1:1"}, "topic": "trading_data",
            "source": {"replay": {"file": "stocks.csv.gz"}},
        })
    }

    pub(crate) fn replay_settings() -> ProducerSettings {
        serde_json::from_value(document()).unwrap()
    }

    fn read(document: &str) -> Result<ProducerSettings, SettingsError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings.json");
        std::fs::write(&path, document).unwrap();
        load(&path)
    }

    #[test]
    fn settings_are_read() {
        let settings = read(&document().to_string()).unwrap();
        assert_eq!(settings.identity(), "shop/market/history");
        assert_eq!(settings.source.replay.unwrap().trades_per_bar, 10);
    }

    #[rstest]
    #[case::newer(
        r#"{"formatVersion": 2, "all": "different"}"#,
        "the settings have format 2, this program reads 1; the images of the operator and of what it runs must be of one release"
    )]
    #[case::no_version(
        "{}",
        "the settings cannot be understood: missing field `formatVersion` at line 1 column 2; the images of the operator and of what it runs must be of one release"
    )]
    #[case::no_json(
        "formatVersion: 1",
        "the settings cannot be understood: expected ident at line 1 column 2; the images of the operator and of what it runs must be of one release"
    )]
    #[case::incomplete(
        r#"{"formatVersion": 1}"#,
        "the settings cannot be understood: missing field `namespace` at line 1 column 20; the images of the operator and of what it runs must be of one release"
    )]
    fn what_is_wrong_is_said(#[case] document: &str, #[case] message: &str) {
        assert_eq!(read(document).unwrap_err().to_string(), message);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load(Path::new("/nowhere/settings.json")).unwrap_err().to_string();
        assert!(error.starts_with("the settings /nowhere/settings.json cannot be read: "), "{error}");
    }

    #[test]
    fn credentials_are_read_without_the_end_of_the_line() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Credentials::read(folder.path()).unwrap_err().class, ProblemClass::StoreDenied);
        std::fs::write(folder.path().join("username"), "app\n").unwrap();
        std::fs::write(folder.path().join("password"), " s p \r\n").unwrap();
        let credentials = Credentials::read(folder.path()).unwrap();
        assert_eq!((credentials.username.as_str(), credentials.password.expose_secret()), ("app", " s p "));
        assert!(!format!("{credentials:?}").contains("s p"));
    }
}
