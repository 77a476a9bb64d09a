//! The web page of a pipeline: its numbers as charts and tables, and the health of what makes them. One process for each pipeline that has `spec.dashboard`.
//!
//! [`follow`] watches the pipeline, its pods and Events in Kubernetes; [`live`] reads `/status` of the pods; [`rows`] reads the rows of charts from MySQL, and [`fed`] says
//! whether new ones come. All of it happens once, however many people look: [`events`] sends what moved to all open pages. [`store`] reads tables, collections and topics page
//! by page when somebody asks. [`pages`] are made on the server and whole without JavaScript.

mod api;
pub mod app;
pub mod assets;
mod auth;
pub mod charts;
mod error;
pub mod events;
pub mod export;
pub mod fed;
pub mod follow;
pub mod graph;
pub mod live;
pub mod pages;
pub mod rows;
pub mod run;
pub mod server;
pub mod settings;
pub mod store;
pub mod table;
mod tail;
pub mod tone;
