//! The settings that the operator wrote.

use std::path::{Path, PathBuf};

use tapeline_api::settings::{DashboardSettings, FormatError, parse};

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// No such file.
    #[error("reading the settings {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Not those of this version.
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// Reads the settings.
///
/// # Errors
/// They are not there, or of another version.
pub fn read(path: &Path) -> Result<DashboardSettings, SettingsError> {
    let text = std::fs::read(path).map_err(|error| SettingsError::Read { path: path.to_owned(), error })?;
    Ok(parse(&text)?)
}
