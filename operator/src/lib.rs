//! Reconciles TradingPipelines. Where to look: [`controller`] says when a reconcile starts, [`reconcile`] what happens in one, [`external`] how Kafka,
//! Cassandra and MySQL are described and changed, [`observer`] how workers are read, [`run`] how all of it starts and stops.

pub mod context;
pub mod controller;
pub mod external;
pub mod http;
pub mod leader;
pub mod metrics;
pub mod observer;
pub mod options;
pub mod reason;
pub mod reconcile;
pub mod run;
pub mod skew;
pub mod subset;
