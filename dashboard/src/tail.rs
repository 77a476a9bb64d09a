//! The messages of a topic as they come, for an open page. The pages' own numbers come by [`crate::events`].

use axum::response::sse::Event;
use futures::{Stream, StreamExt, stream};
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::events::{BEAT, beat_now};

/// `events` with beats among them. It ends with them: beats alone would tell the page that all is well, and it would not connect again.
pub(crate) fn with_beats(events: impl Stream<Item = Event> + Send + 'static, stop: CancellationToken) -> impl Stream<Item = Event> + Send {
    let beats = stream::unfold(interval(BEAT), async |mut beat| {
        beat.tick().await;
        Some((Some(beat_now()), beat))
    });
    let events = events.map(Some).chain(stream::once(std::future::ready(None)));
    let until_the_end = stream::select(events, beats).take_while(|event| std::future::ready(event.is_some()));
    until_the_end.filter_map(std::future::ready).take_until(stop.cancelled_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn when_no_messages_come_any_more_the_answer_ends() {
        let events = stream::iter([Event::default().event("tail"), Event::default().event("fragment")]);
        let sent: Vec<Event> = timeout(Duration::from_secs(2), with_beats(events, CancellationToken::new()).collect()).await.expect("it ends");
        assert!(sent.len() >= 2, "{sent:?}");
    }

    #[tokio::test]
    async fn while_none_come_it_beats_until_the_process_stops() {
        let stop = CancellationToken::new();
        let mut sent = std::pin::pin!(with_beats(stream::pending(), stop.clone()));
        assert!(sent.next().await.is_some());
        stop.cancel();
        assert!(timeout(Duration::from_secs(2), sent.next()).await.expect("it ends").is_none());
    }
}
