//! Whether a server's port answers at all. The drivers of Kafka and Cassandra report a closed port after their own long time and in many words; this says
//! "connection refused" at once.

use std::time::Duration;

use futures::future::select_ok;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Shorter than the drivers' own limits, so that port and protocol together stay within five seconds.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// # Errors
/// Fails with the reason of the last of `addresses` (`host:port`) if none takes a connection.
pub(super) async fn probe(addresses: &[String]) -> Result<(), String> {
    let attempts = addresses.iter().map(|address| Box::pin(connect(address)));
    match addresses {
        [] => Err("no address is given".to_owned()),
        _ => select_ok(attempts).await.map(|_| ()),
    }
}

async fn connect(address: &str) -> Result<(), String> {
    match timeout(PROBE_TIMEOUT, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(describe(&error)),
        Err(_) => Err(format!("no answer within {} s", PROBE_TIMEOUT.as_secs())),
    }
}

/// The cause in words that do not change from one attempt to the next, since conditions repeat them.
pub(super) fn describe(error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => "the connection was closed".to_owned(),
        ErrorKind::TimedOut => "no answer in time".to_owned(),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => "no route to that address".to_owned(),
        _ if error.to_string().contains("failed to lookup address") => "the host name is not known".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_port_says_so() {
        assert_eq!(probe(&["127.0.0.1:1".to_owned()]).await, Err("connection refused".to_owned()));
    }

    #[tokio::test]
    async fn one_open_port_is_enough() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap().to_string();
        assert_eq!(probe(&["127.0.0.1:1".to_owned(), open]).await, Ok(()));
    }
}
