//! What Tapeline's parts agree on: the `TradingPipeline` resource with its schema and rules, its status, the validated names in it, and the settings that the
//! operator hands to workers and producers. No IO.

pub mod crd;
pub mod dead_letter;
pub mod duration;
pub mod labels;
pub mod names;
pub mod path;
pub mod pipeline;
pub mod progress;
pub mod report;
pub mod settings;
pub mod types;

pub use pipeline::{TradingPipeline, TradingPipelineSpec, status::TradingPipelineStatus};

/// The API group of the resource.
pub const GROUP: &str = "tapeline.dev";
/// The version of the resource that is stored and served.
pub const VERSION: &str = "v1alpha1";
/// The field manager under which the operator applies objects.
pub const FIELD_MANAGER: &str = "tapeline-operator";
