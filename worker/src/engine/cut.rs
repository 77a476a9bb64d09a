//! The cut: the plan is finished, its rows and the progress are stored.

use std::time::Duration;

use tapeline_api::report::BatchReport;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::batch::Batch;
use super::{BACKOFF, Engine, Flow, Stop, now_micros};
use crate::consumer::{Command, Urgent};
use crate::dead_letters::DeadLetter;
use crate::sink::{Advance, Progress, Sink, SinkError};
use crate::status::Who;

/// The times of a cut, for the report.
#[derive(Debug, Clone, Copy)]
struct Times {
    /// When it began, and that as milliseconds since 1970.
    cut: (Instant, i64),
    /// How long the micro-batch was open before.
    open: Duration,
    /// From the cut to the plan's last row.
    plan: Duration,
}

/// What comes after an error of the sink.
enum Next {
    /// Call it again.
    Again,
    /// The micro-batch is gone; begin anew.
    Discarded,
}

impl Engine {
    /// Cuts the open micro-batch, if there is one. Afterwards it is stored, or discarded.
    pub(super) async fn cut(&mut self) -> Flow {
        self.schedule.was_cut();
        let Some(mut batch) = self.batch.take() else { return Ok(()) };
        let cut = (Instant::now(), now_micros() / 1000);
        self.parts.query.set_now(now_micros());
        let (closed, _) = tokio::sync::mpsc::channel(1);
        batch.run.input = closed; // dropping the input ends the plan
        while let Some(rows) = batch.run.output.next().await {
            match rows {
                Ok(rows) => self.parts.sink.push(rows),
                Err(error) => {
                    self.batch = Some(batch);
                    return self.failed_run(error);
                }
            }
            if self.parts.sink.is_full() {
                let generation = self.generation;
                self.drain().await?;
                if generation != self.generation {
                    return Ok(()); // discarded on the way
                }
            }
        }
        let times = Times { cut, open: cut.0.duration_since(batch.began), plan: cut.0.elapsed() };
        let mut letters: Vec<DeadLetter> = std::mem::take(&mut batch.bad).into_iter().map(DeadLetter::from).collect();
        if !self.parts.sink.commits_in_kafka() && !self.bury(std::mem::take(&mut letters)).await? {
            return Ok(());
        }
        self.store(batch, letters, times).await
    }

    /// Stores the micro-batch. `letters` are those that the sink takes with it.
    async fn store(&mut self, batch: Batch, mut letters: Vec<DeadLetter>, times: Times) -> Flow {
        let advances: Vec<Advance> = batch
            .steps
            .iter()
            .filter_map(|(&partition, step)| {
                let from = *self.owned.get(&partition)?;
                let to = Progress { epoch: from.epoch, next_offset: step.next_offset, write_time: step.write_time };
                Some(Advance { partition, from, to })
            })
            .collect();
        let mut pause = BACKOFF.0;
        loop {
            let mut urgent = self.parts.urgent.clone();
            let result = tokio::select! {
                result = self.parts.sink.commit(&advances, &letters) => Some(result),
                () = deadline(&mut urgent) => None,
            };
            match result {
                Some(Ok(rows_out)) => {
                    self.parts.status.bad(letters.len() as u64);
                    self.stored(&advances, batch.rows, rows_out, times);
                    return self.caught_up();
                }
                other => {
                    if matches!(self.settle(other.and_then(Result::err), &mut pause, &mut letters).await?, Next::Discarded) {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Does what the sink's error asks for, before it is called again. None: it did not answer by the time at which this engine has to be done. Refused rows go into
    /// the dead-letter topic, or to the `letters` of a sink that takes them.
    async fn settle(&mut self, error: Option<SinkError>, pause: &mut Duration, letters: &mut Vec<DeadLetter>) -> Result<Next, Stop> {
        let discarded = match error {
            Some(SinkError::Refused(rows)) => {
                self.found_bad(rows.len() as u64, "stored: do the types of the table's columns fit what the query gives?")?;
                let refused: Vec<DeadLetter> = rows.into_iter().map(DeadLetter::from).collect();
                if self.parts.sink.commits_in_kafka() {
                    if let (Some(first), false) = (refused.first(), self.has_dead_letter_topic()) {
                        return Err(Stop::Failed(first.without_topic()));
                    }
                    letters.extend(refused);
                    return Ok(Next::Again);
                }
                return Ok(if self.bury(refused).await? { Next::Again } else { Next::Discarded });
            }
            Some(SinkError::Fatal(problem)) => return Err(Stop::Failed(problem)),
            Some(SinkError::Outage(problem)) => {
                tracing::warn!(class = %problem.class, "{}", problem.message);
                self.parts.status.waiting(Who::Engine, problem);
                if self.pause(pause).await.is_ok() {
                    return Ok(Next::Again);
                }
                "the store does not answer, and the partitions are wanted elsewhere".to_owned()
            }
            Some(SinkError::Fenced(text)) => text,
            None => "the store did not answer in time, and the partitions are wanted elsewhere".to_owned(),
        };
        self.discard(&discarded);
        Ok(Next::Discarded)
    }

    fn stored(&mut self, advances: &[Advance], rows_in: u64, rows_out: u64, times: Times) {
        let status = &self.parts.status;
        status.going_on(Who::Engine);
        for advance in advances {
            self.owned.insert(advance.partition, advance.to);
            status.stored(advance.partition, advance.to.next_offset);
        }
        let took = times.cut.0.elapsed();
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let commit_ms = millis(took);
        let report = BatchReport { rows_in, rows_out, open_ms: millis(times.open), plan_ms: millis(times.plan), commit_ms, cut_at_ms: times.cut.1 };
        status.batch(report, took);
        tracing::debug!(rows_in, rows_out, commit_ms, "stored");
        if !self.parts.sink.commits_in_kafka() {
            self.command(Command::Mirror(advances.iter().map(|advance| (advance.partition, advance.to.next_offset)).collect()));
        }
    }

    /// When measuring: whether everything that was there at the start is stored.
    pub(super) fn caught_up(&self) -> Flow {
        let is_behind = |(partition, end): (&i32, &i64)| self.owned.get(partition).is_none_or(|progress| progress.next_offset < *end);
        if self.parts.until_caught_up && !self.ends.is_empty() && !self.ends.iter().any(is_behind) { Err(Stop::Done) } else { Ok(()) }
    }

    /// Lets the sink write what it can, waiting for the store as long as it takes.
    pub(super) async fn drain(&mut self) -> Flow {
        let mut pause = BACKOFF.0;
        loop {
            let mut urgent = self.parts.urgent.clone();
            let result = tokio::select! {
                result = self.parts.sink.drain() => Some(result),
                () = deadline(&mut urgent) => None,
            };
            match result {
                Some(Ok(())) => {
                    self.parts.status.going_on(Who::Engine);
                    return Ok(());
                }
                other => {
                    // A sink that takes letters refuses rows at the commit only.
                    if matches!(self.settle(other.and_then(Result::err), &mut pause, &mut Vec::new()).await?, Next::Discarded) {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Puts records into the dead-letter topic, waiting for it as long as it takes. False: the micro-batch was discarded meanwhile.
    async fn bury(&mut self, mut letters: Vec<DeadLetter>) -> Result<bool, Stop> {
        let (mut pause, count) = (BACKOFF.0, letters.len() as u64);
        loop {
            let Some(first) = letters.first() else { return Ok(true) };
            // What cannot be decoded has stopped the query already; these are rows that a store refuses.
            let Some(dead_letters) = &self.parts.dead_letters else { return Err(Stop::Failed(first.without_topic())) };
            let mut urgent = self.parts.urgent.clone();
            let sent = tokio::select! {
                sent = dead_letters.send(&mut letters) => Some(sent),
                () = deadline(&mut urgent) => None,
            };
            match sent {
                Some(Ok(())) => {
                    self.parts.status.going_on(Who::Engine);
                    self.parts.status.bad(count);
                    return Ok(true);
                }
                Some(Err(problem)) => {
                    self.parts.status.waiting(Who::Engine, problem);
                    if self.pause(&mut pause).await.is_err() {
                        self.discard("the dead-letter topic does not answer, and the partitions are wanted elsewhere");
                        return Ok(false);
                    }
                }
                None => {
                    self.discard("the dead-letter topic did not answer in time, and the partitions are wanted elsewhere");
                    return Ok(false);
                }
            }
        }
    }
}

/// Returns at the time by which this engine has to be done; never, while nobody waits for it.
pub(super) async fn deadline(urgent: &mut watch::Receiver<Urgent>) {
    loop {
        let at = *urgent.borrow_and_update();
        let far = Instant::now() + Duration::from_secs(86_400);
        tokio::select! {
            () = sleep_until(at.unwrap_or(far)), if at.is_some() => return,
            changed = urgent.changed() => if changed.is_err() { std::future::pending::<()>().await },
        }
    }
}
