//! The dashboard, as people see it: in a browser, on a running pipeline whose numbers are in MySQL and Cassandra.

mod access;
mod charts;
mod everybody;
mod letters;
mod many;
mod moving;
mod outages;
mod page;
