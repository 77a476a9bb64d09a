//! Against librdkafka's own cluster, which runs in the process and can be made to vanish.

use std::collections::BTreeMap;

use rdkafka::mocking::MockCluster;

use super::*;
use crate::settings::tests::replay_settings;

#[tokio::test]
async fn what_is_under_way_is_counted_while_no_broker_answers() {
    let cluster = MockCluster::new(1).unwrap();
    let mut settings = replay_settings();
    cluster.create_topic(settings.topic.as_str(), 1, 1).unwrap();
    cluster.broker_down(1).unwrap();
    settings.kafka.bootstrap_servers = cluster.bootstrap_servers();
    let position = Position { floor: 0, before: None, present: BTreeMap::new(), end: 0, published: 0, last: None, ends: BTreeMap::new() };
    let status = Status::default();
    let sender = Sender::open(&settings, &status, &position, 1).unwrap();
    for tick in 0..3 {
        sender.send(&Message { tick, key: None, payload: b"[]".to_vec(), records: 0, last_id: 0, check: None }).await.unwrap();
    }
    let counted = async {
        while status.metrics().in_flight.get() != 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        never = sender.watch() => match never {},
        counted = tokio::time::timeout(Duration::from_secs(10), counted) => counted.unwrap(),
    }
    assert_eq!(status.report().messages_total, 0);
}
