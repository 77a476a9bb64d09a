//! The labels by which objects of a pipeline are found, by its operator and by its dashboard.

/// The label on every object of a pipeline that says which.
pub const PIPELINE_LABEL: &str = "tapeline.dev/pipeline";
/// The label of a query's objects.
pub const QUERY_LABEL: &str = "tapeline.dev/query";
/// The label of a producer's objects.
pub const PRODUCER_LABEL: &str = "tapeline.dev/producer";
/// The label of a dashboard's objects.
pub const DASHBOARD_LABEL: &str = "tapeline.dev/dashboard";
