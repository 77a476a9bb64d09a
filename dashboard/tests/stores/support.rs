//! What the tests share: addresses, names that nothing else has, mounted credentials, and reading all pages.

use std::ops::Deref;
use std::path::Path;
use std::pin::Pin;
use std::{env, thread};

use tapeline_dashboard::store::{Credentials, Page, StoreError};
use tapeline_dashboard::table::{Cell, Table};
use uuid::Uuid;

type Removal = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(crate) fn address(variable: &str, port: u16) -> String {
    env::var(variable).unwrap_or_else(|_| format!("10.99.0.1:{port}"))
}

pub(crate) fn host_and_port(address: &str) -> (String, u16) {
    let (host, port) = address.rsplit_once(':').unwrap();
    (host.to_owned(), port.parse().unwrap())
}

/// A name of a database, keyspace or topic, of which everything is removed when it is dropped.
pub(crate) struct Scratch {
    name: String,
    remove: fn(String) -> Removal,
}

impl Scratch {
    pub(crate) fn new(remove: fn(String) -> Removal) -> Self {
        Self { name: format!("d{}", &Uuid::new_v4().simple().to_string()[..12]), remove }
    }
}

impl Deref for Scratch {
    type Target = str;

    fn deref(&self) -> &str {
        &self.name
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let removal = (self.remove)(self.name.clone());
        // In a thread of its own, as the test's runtime is busy with dropping this.
        let thread = thread::spawn(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(removal));
        if thread.join().is_err() {
            eprintln!("{} was not removed", self.name);
        }
    }
}

/// A mounted Secret, which can be changed.
pub(crate) struct Mounted(tempfile::TempDir);

impl Mounted {
    pub(crate) fn nothing() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn new(store: &str, user: &str, password: &str) -> Self {
        let mounted = Self::nothing();
        mounted.set(store, user, password);
        mounted
    }

    pub(crate) fn set(&self, store: &str, user: &str, password: &str) {
        let folder = self.0.path().join(store);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("username"), user).unwrap();
        std::fs::write(folder.join("password"), password).unwrap();
    }

    pub(crate) fn credentials(&self) -> Credentials {
        Credentials::new(Path::to_owned(self.0.path()))
    }
}

/// The cells of a column.
pub(crate) fn column(table: &Table, name: &str) -> Vec<Cell> {
    let place = table.columns.iter().position(|column| column.name == name).unwrap_or_else(|| panic!("no column {name} in {:?}", table.columns));
    table.rows.iter().map(|row| row[place].clone()).collect()
}

/// The cells of a column of integers.
pub(crate) fn integers(table: &Table, name: &str) -> Vec<i64> {
    let integer = |cell| if let Cell::Integer(value) = cell { value } else { panic!("{cell:?} is no integer") };
    column(table, name).into_iter().map(integer).collect()
}

/// All pages, and what `between` does after each.
pub(crate) async fn pages(read: impl AsyncFn(Option<&str>) -> Result<Page, StoreError>, mut between: impl AsyncFnMut()) -> Vec<Page> {
    let mut pages: Vec<Page> = vec![read(None).await.unwrap()];
    while let Some(next) = pages.last().unwrap().next.clone() {
        assert!(pages.len() < 20, "pages without end");
        between().await;
        pages.push(read(Some(&next)).await.unwrap());
    }
    pages
}

/// The integers of a column of all pages, in order.
pub(crate) fn all(pages: &[Page], name: &str) -> Vec<i64> {
    pages.iter().flat_map(|page| integers(&page.table, name)).collect()
}

pub(crate) fn lengths(pages: &[Page]) -> Vec<usize> {
    pages.iter().map(|page| page.table.rows.len()).collect()
}

/// Whether a server takes connections.
pub(crate) async fn is_there(address: &str) -> bool {
    let connecting = tokio::time::timeout(std::time::Duration::from_secs(2), tokio::net::TcpStream::connect(address));
    matches!(connecting.await, Ok(Ok(_)))
}
