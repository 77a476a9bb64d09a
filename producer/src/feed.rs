//! The producer's life: find where to go on, send, idle when everything is sent; and begin anew after whatever breaks.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tapeline_api::settings::ProducerSettings;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::halt::{Halt, LAST_ACKNOWLEDGEMENTS, Patience, blocking, patiently};
use crate::kafka::sender::{Books, Sender};
use crate::kafka::tail::{Shape, Tail};
use crate::kafka::{Fault, barrier};
use crate::ledger::Ledger;
use crate::search::{Claims, Hint, Position, Search};
use crate::settings::SettingsError;
use crate::source::Source;
use crate::status::Status;
use crate::symbols;

/// How often the hint is written while messages are sent: what a restart reads at most is what was sent since.
const REMEMBER: Duration = Duration::from_secs(10);
/// Every so many times the topic's shape and ends are looked at too.
const LOOK_AROUND: u32 = 6;
/// How often the hint is written anew by a producer that is done. Brokers forget it after 7 days by default, and a topic's messages may be gone even before.
const REFRESH: Duration = Duration::from_secs(3600);
/// How long a stop waits for the hint, once everything is acknowledged.
const LAST_HINT: Duration = Duration::from_secs(3);

/// All work done.
struct Done {
    /// What the next process is to know.
    hint: Option<Hint>,
    /// Whether the brokers have it.
    written: bool,
}

/// What ends the time in which there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Idle {
    Stopped,
    MoreToSend,
}

/// A producer's work.
pub struct Feed {
    settings: Arc<ProducerSettings>,
    credentials: PathBuf,
    source: Box<dyn Source>,
    status: Status,
    stop: CancellationToken,
    /// The topic was gone, or is another one, so what its messages say of earlier ones need not hold for it.
    anew: bool,
}

impl Feed {
    /// Work that has not begun.
    #[must_use]
    pub fn new(settings: ProducerSettings, credentials: PathBuf, source: Box<dyn Source>, status: Status, stop: CancellationToken) -> Self {
        Self { settings: Arc::new(settings), credentials, source, status, stop, anew: false }
    }

    /// Works until the process is asked to stop, or only a change helps.
    pub async fn run(mut self) -> Halt {
        let mut patience = Patience::default();
        loop {
            let acknowledged = self.status.report().messages_total;
            match self.session().await {
                Ok(done) => {
                    self.status.done();
                    if self.settings.once.is_some() {
                        tracing::info!("everything is sent and acknowledged; the run ends");
                        return Halt::Done;
                    }
                    tracing::info!(ticks = done.hint.as_ref().map(|hint| hint.acked), "everything is sent and acknowledged; idling");
                    if self.idle(done).await == Idle::Stopped {
                        return Halt::Stopped;
                    }
                }
                Err(Halt::Waiting(problem)) => {
                    self.status.waiting(problem);
                    if self.status.report().messages_total > acknowledged {
                        patience = Patience::default();
                    }
                    if patience.pause(&self.stop).await.is_err() {
                        return Halt::Stopped;
                    }
                }
                // A source that is put right in its place goes on then; any other stays as it is until the process ends.
                Err(Halt::Failed(problem)) if self.settings.once.is_none() => {
                    self.status.failed(problem);
                    if self.stop.run_until_cancelled(self.source.more()).await.is_none() {
                        return Halt::Stopped;
                    }
                    self.status.starting();
                }
                Err(halt) => return halt,
            }
        }
    }

    /// From looking where to go on to the last acknowledgement.
    async fn session(&mut self) -> Result<Done, Halt> {
        let tail = Arc::new(Tail::open(&self.settings)?);
        let attempt = || resume(&tail, &self.settings, self.source.as_ref(), self.anew);
        let (shape, mut position) = patiently(&self.stop, |problem| self.status.waiting(problem), attempt).await?;
        self.anew = false;
        self.source.resume(&mut position)?;
        self.status.metrics().ticks.set(self.source.goal().map_or(0, |goal| i64::try_from(goal).unwrap_or(i64::MAX)));
        self.status.metrics().ticks_done.set(i64::try_from(position.floor).unwrap_or(i64::MAX));
        if self.source.goal().is_some_and(|goal| position.floor >= goal) {
            return self.finish(&tail, Ledger::new(&position).hint()).await;
        }
        self.symbols().await?;
        // Again, since the symbols are what prices belong to.
        self.source.resume(&mut position)?;
        tracing::info!(tick = position.floor, above = position.present.len(), last_id = position.last.as_ref().map(|last| last.stamp.last_id), "going on");
        let sender = Sender::open(&self.settings, &self.status, &position, shape.partitions)?;
        let books = sender.books();
        self.status.running();
        let result = tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Halt::Stopped),
            never = sender.watch() => match never {},
            never = keep_hint(&tail, &sender, &books) => match never {},
            result = self.source.run(&position, &sender) => {
                self.anew = matches!(result, Err(Fault::TopicMissing(_) | Fault::Recreated(_)));
                result.map_err(Halt::from)
            }
        };
        if result == Err(Halt::Stopped) {
            settle(&tail, &sender, &books).await;
            return Err(Halt::Stopped);
        }
        let hint = books.ledger().hint();
        // Before the next session looks at the topic: what this sender has under way must not arrive after that.
        blocking(move || {
            drop(sender);
            Ok::<_, Halt>(())
        })
        .await?;
        result?;
        self.finish(&tail, hint).await
    }

    /// Remembers that everything is sent.
    async fn finish(&self, tail: &Arc<Tail>, hint: Option<Hint>) -> Result<Done, Halt> {
        let written = self.stop.run_until_cancelled(remember(tail, hint.clone())).await.ok_or(Halt::Stopped)?;
        Ok(Done { hint, written })
    }

    async fn symbols(&mut self) -> Result<(), Halt> {
        let Some(table) = self.source.needs().symbols else { return Ok(()) };
        let Some(server) = self.settings.mysql.clone() else { return Err(SettingsError::NoMySql.into()) };
        let load = async || symbols::load(&server, &table, &self.credentials).await.map_err(Halt::Waiting);
        let symbols = patiently(&self.stop, |problem| self.status.waiting(problem), load).await?;
        tracing::info!(symbols = symbols.len(), %table, "read the symbols");
        self.source.take_symbols(symbols);
        Ok(())
    }

    /// Everything is sent: nothing is connected and nothing is to do, but to keep the brokers from forgetting it.
    async fn idle(&mut self, mut done: Done) -> Idle {
        loop {
            let awake = async {
                tokio::select! {
                    () = tokio::time::sleep(REFRESH) => false,
                    () = self.source.more() => true,
                }
            };
            match self.stop.run_until_cancelled(awake).await {
                None => return Idle::Stopped,
                Some(true) => return Idle::MoreToSend,
                Some(false) => {}
            }
            let (settings, hint, written) = (Arc::clone(&self.settings), done.hint.clone(), done.written);
            let refresh = blocking(move || -> Result<bool, Fault> {
                let Some(hint) = hint else { return Ok(false) };
                let tail = Tail::open(&settings)?;
                // What was written and is gone went with the topic; the next one begins with nothing, and must not inherit that all is done.
                let gone = written && tail.hint(tail.shape()?)?.is_none();
                if gone { Ok(true) } else { tail.remember(&hint).map(|()| true) }
            });
            match self.stop.run_until_cancelled(refresh).await {
                None => return Idle::Stopped,
                Some(Ok(written)) => done.written = written,
                Some(Err(halt)) => tracing::warn!(?halt, "what is done cannot be remembered"),
            }
        }
    }
}

/// Finds where to go on.
async fn resume(tail: &Arc<Tail>, settings: &Arc<ProducerSettings>, source: &dyn Source, anew: bool) -> Result<(Shape, Position), Halt> {
    let (tail, settings, goal, wants_content) = (Arc::clone(tail), Arc::clone(settings), source.goal(), source.needs().last_message);
    blocking(move || -> Result<_, Fault> {
        let shape = tail.shape()?;
        let mut extents = tail.extents(shape)?;
        let known = tail.hint(shape)?;
        let hint = known.as_ref().filter(|hint| hint.fits(&extents) && !anew);
        // Where retention has deleted something, what is not there any more may well have been; in a whole topic it has not.
        let whole = extents.values().all(|extent| extent.low == 0);
        let claims = if whole && (anew || known.is_some() != hint.is_some()) { Claims::Ignored } else { Claims::Trusted };
        if claims == Claims::Ignored {
            tracing::warn!("the topic was created anew, or lost messages at its end: looking through all of it");
        }
        // Whoever remembers that everything was acknowledged need not look.
        if let (Some(hint), Some(goal)) = (hint, goal)
            && hint.acked >= goal
        {
            return Ok((shape, Search::new(&extents, Some(hint), Claims::Trusted).position()));
        }
        if shape.replicated {
            barrier::raise(&settings, &mut extents)?;
        }
        let search = Search::new(&extents, hint, claims);
        Ok((shape, tail.position(if wants_content { search.with_content() } else { search })?))
    })
    .await
}

/// Writes the hint from time to time, and looks whether the topic has grown. Ends never.
async fn keep_hint(tail: &Arc<Tail>, sender: &Sender, books: &Arc<Books>) -> Infallible {
    let mut acked = None;
    for round in 1_u32.. {
        tokio::time::sleep(REMEMBER).await;
        if round.is_multiple_of(LOOK_AROUND) {
            look_around(tail, sender, books).await;
            acked = None;
        }
        let hint = books.ledger().hint().filter(|hint| acked != Some(hint.acked));
        let mark = hint.as_ref().map(|hint| hint.acked);
        if remember(tail, hint).await {
            acked = mark;
        }
    }
    std::future::pending().await
}

/// Takes partitions into use that were added, and notes where the topic ends, so that a restart does not read what others wrote.
async fn look_around(tail: &Arc<Tail>, sender: &Sender, books: &Arc<Books>) {
    let Some(shape) = sender.refresh().await else { return };
    let Some(sent) = books.ledger().quiet() else { return };
    let tail = Arc::clone(tail);
    if let Ok(extents) = blocking(move || tail.extents(shape)).await {
        books.ledger().ends(sent, &extents.into_iter().map(|(partition, extent)| (partition, extent.end)).collect());
    }
}

/// Writes the hint, and says whether it did. That it cannot be written costs the next start time, and nothing else.
async fn remember(tail: &Arc<Tail>, hint: Option<Hint>) -> bool {
    let tail = Arc::clone(tail);
    let result = blocking(move || -> Result<bool, Fault> {
        tail.serve();
        hint.map_or(Ok(false), |hint| tail.remember(&hint).map(|()| true))
    });
    match result.await {
        Ok(written) => written,
        Err(halt) => {
            tracing::warn!(?halt, "the place to go on cannot be remembered");
            false
        }
    }
}

/// The end of a process: what is under way is waited for, for a while.
async fn settle(tail: &Arc<Tail>, sender: &Sender, books: &Arc<Books>) {
    if !matches!(timeout(LAST_ACKNOWLEDGEMENTS, sender.settled()).await, Ok(Ok(()))) {
        return;
    }
    let hint = books.ledger().hint();
    let _ = timeout(LAST_HINT, remember(tail, hint)).await;
}
