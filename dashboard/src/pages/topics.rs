//! The messages of topics, and dead letters with why they are there and a way back.

use askama::Template;
use axum::extract::{Form, Path, Query, State};
use axum::http::HeaderMap;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Redirect, Response};
use futures::{FutureExt, StreamExt, stream};
use serde::{Deserialize, Serialize};
use tapeline_api::TradingPipelineSpec;
use tapeline_api::dead_letter;
use tapeline_api::names::TopicName;
use tapeline_api::pipeline::dashboard::Allowed;
use tapeline_api::pipeline::producers::Producer;
use tapeline_api::pipeline::queries::Target;
use tapeline_api::settings::DashboardAuth;

use super::words::{grouped, machine, part, person, query_string};
use super::{Framed, Page, respond};
use crate::app::App;
use crate::error::{Failure, bad_request};
use crate::events::Fragment;
use crate::store::StoreError;
use crate::store::topics::{Message, Place, Places, Tailed};

/// Messages of a page.
pub(crate) const COUNT: usize = 50;

/// A topic that the pipeline names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Topic {
    pub(crate) name: TopicName,
    /// Where its letters came from, if it has dead letters.
    pub(crate) sources: Vec<TopicName>,
}

/// The topics that a pipeline names, each once.
pub(crate) fn all(spec: &TradingPipelineSpec) -> Vec<Topic> {
    let mut topics: Vec<Topic> = Vec::new();
    let letters: Vec<(&TopicName, &TopicName)> = spec.streams.iter().filter_map(|stream| Some((stream.dead_letter_topic.as_ref()?, &stream.topic))).collect();
    let of_streams = spec.streams.iter().map(|stream| &stream.topic);
    let of_sinks = spec.queries.iter().filter_map(|query| if let Some(Target::Kafka(sink)) = query.sink.target() { Some(&sink.topic) } else { None });
    let of_producers = spec.producers.iter().flat_map(Producer::topics).map(|(_field, topic)| topic);
    let declared = spec.kafka.topics.iter().map(|topic| &topic.name);
    for name in declared.chain(of_streams).chain(of_producers).chain(of_sinks).chain(letters.iter().map(|(name, _)| *name)) {
        if topics.iter().all(|known| known.name != *name) {
            let mut sources: Vec<TopicName> = Vec::new();
            for (_, source) in letters.iter().filter(|(letter, _)| *letter == name) {
                if !sources.contains(source) {
                    sources.push((*source).clone());
                }
            }
            topics.push(Topic { name: name.clone(), sources });
        }
    }
    topics
}

#[derive(Template)]
#[template(path = "topics/page.html")]
#[allow(clippy::struct_excessive_bools, reason = "what the template asks")]
struct Body<'a> {
    places: String,
    base: &'a str,
    topic: &'a Topic,
    /// Where its letters came from, in words.
    sources: String,
    filter: &'a str,
    messages: Vec<String>,
    scanned: usize,
    complete: bool,
    may_replay: bool,
    replayed: Option<String>,
    is_followed: bool,
    /// The addresses of this page with messages as they come, and without.
    follow: String,
    still: String,
    /// That of the messages before these, if there may be any.
    older: Option<String>,
    are_newest: bool,
}

#[derive(Template)]
#[template(path = "topics/message.html")]
struct Shown<'a> {
    base: &'a str,
    topic: &'a str,
    message: &'a Message,
    at: String,
    at_machine: String,
    key: String,
    /// The beginning, on one line.
    line: String,
    size: String,
    reason: Option<&'a str>,
    may_replay: bool,
    /// Why it cannot be sent again, if it cannot.
    not_replayable: Option<String>,
}

#[derive(Template)]
#[template(path = "topics/missed.html")]
struct Missed {
    count: String,
}

/// What is asked of a topic.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Asked {
    /// A text that key or payload must hold.
    #[serde(default)]
    filter: String,
    /// Where a letter was sent to: `topic/partition/offset`.
    replayed: Option<String>,
    /// Where the page begins: `partition-offset`, several with `_` between them.
    before: Option<String>,
    /// Whether messages are shown as they come.
    #[serde(default)]
    follow: bool,
}

/// A dead letter that is to be sent again.
#[derive(Debug, Deserialize)]
pub(crate) struct Letter {
    partition: i32,
    offset: i64,
}

/// What the event `tail` holds.
#[derive(Serialize)]
struct Tail {
    html: String,
}

fn find(app: &App, name: &str) -> Result<Topic, Failure> {
    let pipeline = app.pipeline().ok_or(Failure::NoPipeline)?;
    let found = all(&pipeline.spec).into_iter().find(|topic| topic.name.as_str() == name);
    found.ok_or_else(|| Failure::NotFound(format!("the pipeline names no topic \"{name}\"")))
}

fn may_replay(app: &App, topic: &Topic) -> bool {
    !topic.sources.is_empty() && app.settings.allow.contains(&Allowed::ReplayDeadLetters)
}

impl Asked {
    /// The text to look for.
    fn text(&self) -> Option<&str> {
        Some(self.filter.as_str()).filter(|text| !text.is_empty())
    }

    /// The places before which to look, if it is not for the newest.
    fn before(&self) -> Result<Option<Places>, Failure> {
        let place = |text: &str| text.split_once('-').and_then(|(partition, offset)| Some((partition.parse::<i32>().ok()?, offset.parse::<i64>().ok()?)));
        let places =
            |text: &String| text.split('_').map(place).collect::<Option<Places>>().ok_or_else(|| bad_request("before names no places: begin with the newest"));
        self.before.as_ref().map(places).transpose()
    }
}

/// `places` as an address has them.
fn in_address(places: &Places) -> String {
    places.iter().map(|(partition, offset)| format!("{partition}-{offset}")).collect::<Vec<_>>().join("_")
}

/// `GET /topics/{topic}`.
pub(crate) async fn page(State(app): State<App>, Path(name): Path<String>, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let (pipeline, topic) = (app.pipeline().ok_or(Failure::NoPipeline)?, find(&app, &name)?);
    let before = asked.before()?;
    let found = match &before {
        Some(places) => app.topics.before(&topic.name, places, COUNT, asked.text()).await?,
        None => app.topics.latest(&topic.name, COUNT, asked.text()).await?,
    };
    let may_replay = may_replay(&app, &topic);
    let messages = found.messages.iter().map(|message| show(app.base(), &topic, message, may_replay)).collect::<Result<_, _>>()?;
    let here = format!("{}/topics/{}", app.base(), part(&name));
    let filter = asked.text().map(|text| ("filter".to_owned(), text.to_owned()));
    let address = |more: Option<(&str, String)>| {
        let query = query_string(filter.clone().into_iter().chain(more.map(|(key, value)| (key.to_owned(), value))));
        if query.is_empty() { here.clone() } else { format!("{here}?{query}") }
    };
    let is_followed = asked.follow && before.is_none();
    let body = Body {
        places: super::data::places(&pipeline.spec, app.base(), &here)?,
        base: app.base(),
        topic: &topic,
        sources: topic.sources.iter().map(TopicName::as_str).collect::<Vec<_>>().join(", "),
        filter: &asked.filter,
        messages,
        scanned: found.scanned,
        complete: found.complete,
        may_replay,
        replayed: asked.replayed.clone(),
        is_followed,
        follow: address(Some(("follow", "true".to_owned()))),
        still: address(None),
        older: (!found.older.is_empty()).then(|| address(Some(("before", in_address(&found.older))))),
        are_newest: before.is_none(),
    }
    .render()?;
    let page = if is_followed { Page::Tail(name.clone(), asked.filter.clone()) } else { Page::Still };
    respond(&app, Framed { heading: &name, nav: "data", page, styles: &[], scripts: &[], body })
}

/// Characters of a message that its line shows.
const LINE: usize = 200;

fn show(base: &str, topic: &Topic, message: &Message, may_replay: bool) -> Result<String, askama::Error> {
    let error = message.headers.iter().find(|(name, _)| name == dead_letter::ERROR).map(|(_, value)| value.text.as_str());
    let text = &message.payload.text;
    let shown = Shown {
        base,
        topic: topic.name.as_str(),
        message,
        at: message.timestamp_ms.map(person).unwrap_or_default(),
        at_machine: message.timestamp_ms.map(machine).unwrap_or_default(),
        key: message.key.as_ref().map(|key| key.text.clone()).unwrap_or_default(),
        line: text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(LINE).collect(),
        size: message.payload.cut_from.map(|bytes| format!("{} bytes", grouped(i64::try_from(bytes).unwrap_or(i64::MAX)))).unwrap_or_default(),
        reason: error.filter(|_| !topic.sources.is_empty()),
        may_replay,
        not_replayable: message.not_replayable(&topic.sources).filter(|_| may_replay),
    };
    shown.render()
}

/// `GET /topics/{topic}/tail`: the newest messages, and those that come.
pub(crate) async fn tail(State(app): State<App>, Path(name): Path<String>, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let (topic, stop) = (find(&app, &name)?, app.stop.clone());
    let may_replay = may_replay(&app, &topic);
    let events = async move {
        let followed = app.topics.tail(&topic.name, COUNT, asked.text()).await;
        match followed {
            Ok(messages) => {
                // What an earlier connection said of its end is over.
                let begun = stream::iter(said(&super::notice(&app)));
                let coming = messages.filter_map(move |item| std::future::ready(event(app.base(), &topic, item, may_replay)));
                begun.chain(coming).boxed()
            }
            Err(error) => stream::iter(trouble(&error)).boxed(),
        }
    };
    Ok(crate::events::sse(crate::tail::with_beats(events.flatten_stream(), stop)))
}

fn event(base: &str, topic: &Topic, item: Result<Tailed, StoreError>, may_replay: bool) -> Option<Event> {
    let html = match item {
        Ok(Tailed::Message(message)) => show(base, topic, &message, may_replay),
        Ok(Tailed::Missed(count)) => Missed { count: grouped(i64::try_from(count).unwrap_or(i64::MAX)) }.render(),
        Err(error) => return trouble(&error),
    };
    Event::default().event("tail").json_data(Tail { html: html.ok()? }).ok()
}

/// What the page says above everything else when no messages come any more.
fn trouble(error: &StoreError) -> Option<Event> {
    said(&super::Notice { text: Some(error.to_string()) })
}

fn said(notice: &super::Notice) -> Option<Event> {
    Event::default().event("fragment").json_data(Fragment { id: "notice".to_owned(), html: notice.render().ok()? }).ok()
}

/// `POST /topics/{topic}/replay`: sends a dead letter to its topic again.
pub(crate) async fn replay(State(app): State<App>, Path(name): Path<String>, headers: HeaderMap, Form(letter): Form<Letter>) -> Result<Response, Failure> {
    let topic = find(&app, &name)?;
    if !may_replay(&app, &topic) {
        return Err(Failure::Forbidden(
            "nothing can be sent from here: allow it with spec.dashboard.allow: [ReplayDeadLetters], and choose a message of a dead-letter topic".to_owned(),
        ));
    }
    let Place { topic: to, partition, offset } = app.topics.replay(&topic.name, &topic.sources, letter.partition, letter.offset).await?;
    let user = user(&app.settings.auth, &headers);
    tracing::info!(user, topic = name, letter.partition, letter.offset, %to, partition, offset, "a dead letter was sent again");
    let query = query_string(std::iter::once(("replayed".to_owned(), format!("{to}/{partition}/{offset}"))));
    Ok(Redirect::to(&format!("{}/topics/{}?{query}", app.base(), part(&name))).into_response())
}

/// Who does it, for the log.
fn user<'a>(auth: &DashboardAuth, headers: &'a HeaderMap) -> &'a str {
    match auth {
        DashboardAuth::Header(header) => headers.get(&header.name).and_then(|user| user.to_str().ok()).map(str::trim).unwrap_or_default(),
        DashboardAuth::Password => "whoever has the password",
        DashboardAuth::Anybody => "anybody",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::topics::Text;

    fn topic(name: &str, sources: &[&str]) -> Topic {
        Topic { name: name.parse().unwrap(), sources: sources.iter().map(|source| source.parse().unwrap()).collect() }
    }

    #[test]
    fn each_topic_is_named_once_and_dead_letters_know_where_they_came_from() {
        let fields = serde_json::json!([{"name": "id", "type": "bigint"}]);
        let spec: TradingPipelineSpec = serde_json::from_value(serde_json::json!({
            "kafka": {"bootstrapServers": "k:9092", "topics": [{"name": "trades"}]},
            "streams": [
                {"name": "ticks", "topic": "trades", "deadLetterTopic": "dead", "fields": fields},
                {"name": "again", "topic": "trades", "deadLetterTopic": "dead", "fields": fields},
                {"name": "quotes", "topic": "quotes", "deadLetterTopic": "dead", "fields": fields},
            ],
            "queries": [{"name": "out", "sql": "SELECT * FROM ticks", "sink": {"kafka": {"topic": "published"}}}],
        }))
        .unwrap();
        assert_eq!(all(&spec), [topic("trades", &[]), topic("quotes", &[]), topic("published", &[]), topic("dead", &["trades", "quotes"])]);
    }

    fn letter(kind: &str, index: &str) -> Message {
        let text = |text: &str| Text { text: text.to_owned(), hex: false, cut_from: None };
        let headers = [("tapeline-topic", "trades"), ("tapeline-index", index), ("tapeline-kind", kind), ("tapeline-error", "field \"id\" is not a bigint")];
        let headers = headers.map(|(name, value)| (name.to_owned(), text(value))).to_vec();
        Message { partition: 0, offset: 7, timestamp_ms: None, key: None, headers, payload: text("{}"), json: true, tombstone: false }
    }

    #[test]
    fn a_letter_says_why_it_is_one_and_a_row_of_a_query_is_not_sent_again() {
        let dead = topic("dead", &["trades"]);
        let why = "<span class=\"why\">field";
        let record = show("/base", &dead, &letter("record", ""), true).unwrap();
        assert!(record.contains(why) && record.contains("action=\"/base/topics/dead/replay\""), "{record}");
        let element = show("/base", &dead, &letter("record", "3"), true).unwrap();
        assert!(element.contains("<form"), "{element}");
        let row = show("/base", &dead, &letter("row", "0"), true).unwrap();
        assert!(row.contains(why) && row.contains("a row that a store refused") && !row.contains("<form"), "{row}");
        let not_allowed = show("/base", &dead, &letter("record", ""), false).unwrap();
        assert!(not_allowed.contains(why) && !not_allowed.contains("<form"), "{not_allowed}");
        let elsewhere = show("/base", &topic("trades", &[]), &letter("record", ""), false).unwrap();
        assert!(!elsewhere.contains(why), "{elsewhere}");
    }

    #[test]
    fn places_of_older_messages_stand_in_an_address() {
        let places = Places::from([(0, 12), (17, 9_000_000_000)]);
        let address = in_address(&places);
        assert_eq!(part(&address), address, "nothing is to be escaped");
        let asked = |before: &str| Asked { before: Some(before.to_owned()), ..Asked::default() }.before();
        assert_eq!(asked(&address).unwrap(), Some(places));
        for wrong in ["", "0", "0-", "a-b", "0-1_", "0-1-2"] {
            assert!(matches!(asked(wrong), Err(Failure::BadRequest(_))), "{wrong}");
        }
    }

    #[test]
    fn what_was_left_out_is_said_where_it_is_missing() {
        let html = Missed { count: grouped(1234) }.render().unwrap();
        assert!(html.starts_with("<li") && html.contains("1\u{202f}234 messages"), "{html}");
    }

    #[test]
    fn the_log_names_who_sends_a_letter_again() {
        let auth = serde_json::from_value(serde_json::json!({"header": {"name": "X-User"}})).unwrap();
        let headers = HeaderMap::from_iter([("x-user".parse().unwrap(), "ann".parse().unwrap())]);
        assert_eq!((user(&auth, &headers), user(&DashboardAuth::Anybody, &headers)), ("ann", "anybody"));
    }
}
