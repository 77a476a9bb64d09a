//! temporary: verify create|grow|delete|check|consume
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use rdkafka::admin::*;
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::*;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (what, topic) = (args[0].as_str(), args[1].as_str());
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", std::env::var("TESTBED_KAFKA").unwrap());
    let admin: AdminClient<DefaultClientContext> = config.create().unwrap();
    let options = AdminOptions::new();
    match what {
        "create" => println!("{:?}", admin.create_topics(&[NewTopic::new(topic, args[2].parse().unwrap(), TopicReplication::Fixed(1))], &options).await.unwrap()),
        "grow" => println!("{:?}", admin.create_partitions(&[NewPartitions::new(topic, args[2].parse().unwrap())], &options).await.unwrap()),
        "delete" => println!("{:?}", admin.delete_topics(&[topic], &options).await.unwrap()),
        "trim" => {
            let consumer: BaseConsumer = config.create().unwrap();
            let n = consumer.fetch_metadata(Some(topic), Duration::from_secs(5)).unwrap().topics()[0].partitions().len() as i32;
            let mut tpl = TopicPartitionList::new();
            for p in 0..n { let (_, high) = consumer.fetch_watermarks(topic, p, Duration::from_secs(5)).unwrap(); tpl.add_partition_offset(topic, p, Offset::Offset(high)).unwrap(); }
            println!("{:?}", admin.delete_records(&tpl, &options).await.is_ok());
        }
        "barrier" => {
            let settings = tapeline_producer::settings::load(std::path::Path::new(&args[2])).unwrap();
            let tail = tapeline_producer::kafka::tail::Tail::open(&settings).unwrap();
            let mut extents = tail.extents(tail.shape().unwrap()).unwrap();
            println!("{extents:?}");
            let t = std::time::Instant::now();
            tapeline_producer::kafka::barrier::raise(&settings, &mut extents).unwrap();
            println!("{extents:?} {:?}", t.elapsed());
            println!("{:?}", tail.extents(tail.shape().unwrap()).unwrap());
        }
        "limit" => println!("{:?}", admin.alter_configs(&[AlterConfig { specifier: ResourceSpecifier::Topic(topic), entries: [("max.message.bytes", args[2].as_str())].into() }], &options).await.unwrap()),
        "foreign" => {
            let producer: rdkafka::producer::BaseProducer = config.set("linger.ms", "50").set("queue.buffering.max.messages", "10000000").create().unwrap();
            use rdkafka::producer::{BaseRecord, Producer};
            for i in 0..args[2].parse::<u64>().unwrap() { producer.send(BaseRecord::<(), _>::to(topic).payload(&format!("[{{\"x\":{i}}}]"))).map_err(|e| e.0).unwrap(); }
            producer.flush(Duration::from_secs(60)).unwrap();
        }
        "check" => {
            config.set("group.id", format!("verify-{}", std::process::id())).set("enable.partition.eof", "true").set("auto.offset.reset", "earliest").set("enable.auto.commit", "false");
            let consumer: BaseConsumer = config.create().unwrap();
            let n = consumer.fetch_metadata(Some(topic), Duration::from_secs(5)).unwrap().topics()[0].partitions().len() as i32;
            let mut tpl = TopicPartitionList::new();
            for p in 0..n { tpl.add_partition_offset(topic, p, Offset::Beginning).unwrap(); }
            consumer.assign(&tpl).unwrap();
            let (mut open, mut messages, mut own, mut empty) = (n, 0u64, 0u64, 0u64);
            let mut by_partition: BTreeMap<i32, u64> = BTreeMap::new();
            let mut ticks: BTreeMap<(String, u64), u64> = BTreeMap::new();
            let mut ids: BTreeMap<i64, u64> = BTreeMap::new();
            let mut volume: BTreeMap<String, u64> = BTreeMap::new();
            let mut candles: BTreeMap<(String, String), Vec<(String, f64)>> = BTreeMap::new();
            while open > 0 {
                match consumer.poll(Duration::from_secs(10)) {
                    Some(Ok(m)) => {
                        messages += 1;
                        let h: BTreeMap<String, String> = m.headers().map(|h| h.iter().map(|h| (h.key.to_owned(), String::from_utf8_lossy(h.value.unwrap_or(b"")).into_owned())).collect()).unwrap_or_default();
                        if args.get(2).is_some_and(|a| a == "-v") && messages < 5 { println!("{} {} {h:?} {}", m.partition(), m.offset(), String::from_utf8_lossy(m.payload().unwrap_or(b"")).chars().take(200).collect::<String>()); }
                        if h.contains_key("tapeline-start") { empty += 1; continue; }
                        let Some(t) = h.get("tapeline-tick") else { continue };
                        own += 1;
                        *by_partition.entry(m.partition()).or_default() += 1;
                        *ticks.entry((h["tapeline-producer"].clone(), t.parse().unwrap())).or_default() += 1;
                        let rows: Vec<serde_json::Value> = serde_json::from_slice(m.payload().unwrap()).unwrap();
                        for r in rows {
                            *ids.entry(r["id"].as_i64().unwrap()).or_default() += 1;
                            *volume.entry(r["ticker"].as_str().unwrap().to_owned()).or_default() += r["volume"].as_u64().unwrap();
                            let at = r["created_at"].as_str().unwrap();
                            candles.entry((r["ticker"].as_str().unwrap().to_owned(), at[..10].to_owned())).or_default().push((at.to_owned(), r["price"].as_f64().unwrap()));
                        }
                    }
                    Some(Err(error::KafkaError::PartitionEOF(_))) => open -= 1,
                    other => println!("{other:?}"),
                }
            }
            let dup_ticks = ticks.values().filter(|c| **c > 1).count();
            let dup_ids = ids.values().filter(|c| **c > 1).count();
            let keys: BTreeSet<_> = ids.keys().copied().collect();
            println!("messages {messages} own {own} starts {empty} by partition {by_partition:?}");
            println!("ticks {} doubled {dup_ticks}; ids {} doubled {dup_ids}, {:?}..{:?}, contiguous {}", ticks.len(), ids.len(), keys.first(), keys.last(), keys.len() as i64 == keys.last().unwrap_or(&0) - keys.first().unwrap_or(&1) + 1);
            if volume.len() < 10 { println!("volumes {volume:?} total {}", volume.values().sum::<u64>()); }
            if let Some(csv) = args.iter().find(|a| a.ends_with(".gz")) {
                let days = tapeline_producer::bars::parse(&std::fs::read(csv).unwrap()).unwrap();
                let mut wrong = 0;
                for day in &days { for bar in &day.bars {
                    let trades = candles.get_mut(&(bar.ticker.to_string(), day.date.to_string())).unwrap();
                    trades.sort_by(|a, b| a.0.cmp(&b.0));
                    let p: Vec<f64> = trades.iter().map(|t| t.1).collect();
                    let max = p.iter().copied().fold(f64::MIN, f64::max); let min = p.iter().copied().fold(f64::MAX, f64::min);
                    if (p[0], *p.last().unwrap(), max, min) != (bar.open, bar.close, bar.high, bar.low) { wrong += 1; }
                } }
                println!("candles wrong {wrong}");
            }
        }
        _ => panic!("what?"),
    }
}
