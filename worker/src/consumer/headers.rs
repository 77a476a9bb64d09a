//! The headers of a message, borrowed from librdkafka.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rdkafka::Message as _;
use rdkafka::message::{BorrowedMessage, Headers as _};
use tapeline_query::decode::Header;

/// The headers of `message`, in order. One whose name is no UTF-8 is left out: Kafka's protocol says that it is, and rdkafka 0.39 panics on one that is not, which must
/// not end a worker again and again over one message.
pub(super) fn headers<'a>(message: &'a BorrowedMessage<'_>) -> Vec<Header<'a>> {
    let Some(headers) = message.headers() else { return Vec::new() };
    (0..headers.count())
        .filter_map(|index| catch_unwind(AssertUnwindSafe(|| headers.try_get(index))).ok().flatten())
        .map(|header| (header.key, header.value))
        .collect()
}
