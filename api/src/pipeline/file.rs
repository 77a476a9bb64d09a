//! `spec.producers[].source.file`: messages that somebody wrote down.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, IntoStaticStr};

use super::ConfigMapKeyRef;
use crate::duration::{GoDuration, between};

/// Messages from a ConfigMap, in its order. Each is sent once: lines that are added at the end are sent when they come, and a restart goes on behind the last one
/// that is in the topic. With a `schedule` each run sends all of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct File {
    /// Where they are. Another key is another file, all of which is sent; under the same key nothing that was sent may change.
    pub config_map_key_ref: ConfigMapKeyRef,
    /// How the file is divided into messages.
    #[serde(default)]
    pub format: FileFormat,
    /// The message's key: where it is in the message, as a JSON pointer (`/id`, `/customer/name`). Messages of one key go to one partition. A message that has
    /// nothing there has no key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200), pattern("^(/([^~/]|~[01])*)+$"))]
    pub key: Option<String>,
    /// Time between two messages. Default: as fast as the brokers take them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = between("1ms", "24h")))]
    pub interval: Option<GoDuration>,
}

/// How a file is divided into messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Display, IntoStaticStr)]
pub enum FileFormat {
    /// Each line is a message, whatever is in it; blank ones are none.
    #[default]
    Lines,
    /// The file is a JSON array, each of whose elements is a message.
    JSON,
}
