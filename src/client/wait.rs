//! Waiting for a worker, by what the hive tells of it.

use std::time::{Duration, Instant};

use super::{ClientError, Event, Events, HiveClient};
use crate::api::{State, Worker};
use crate::id::WorkerId;
use crate::limits::CLIENT_WAIT_MAX;

impl HiveClient {
    /// Waits until a worker can be asked, at most for `timeout`. Told by the hive's events: it takes no longer than
    /// the worker does.
    ///
    /// # Errors
    /// [`ClientError::NotReady`] with the worker as it was last seen, if it ends instead, or takes longer;
    /// 404 `WORKER_NOT_FOUND` if the hive does not know it, or not any more; those of [`events`](Self::events).
    ///
    /// ```
    /// use std::time::Duration;
    /// use rbee_hive::api::SpawnRequest;
    /// use rbee_hive::client::ClientError;
    /// # let hive = rbee_hive::mock::example::hive();
    /// let spawned = hive.spawn(&SpawnRequest::new("hf:org/tiny"))?;
    /// match hive.wait_ready(&spawned.worker_id, Duration::from_secs(60)) {
    ///     Ok(worker) => println!("ask {}", worker.url),
    ///     Err(ClientError::NotReady(worker)) => println!("{:?}: {:?}", worker.state, worker.exit),
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok::<(), rbee_hive::client::ClientError>(())
    /// ```
    pub fn wait_ready(&self, id: &WorkerId, timeout: Duration) -> Result<Worker, ClientError> {
        self.wait_ready_with(id, timeout, |_| {})
    }

    /// The same, and `tell` is called with each [`Event::Worker`] of this worker, and each [`Event::Download`] of what
    /// is being fetched for it.
    ///
    /// # Errors
    /// As [`wait_ready`](Self::wait_ready).
    ///
    /// ```
    /// use std::time::Duration;
    /// use rbee_hive::api::SpawnRequest;
    /// use rbee_hive::client::Event;
    /// # let hive = rbee_hive::mock::example::hive();
    /// let spawned = hive.spawn(&SpawnRequest::new("hf:org/tiny"))?;
    /// hive.wait_ready_with(&spawned.worker_id, Duration::from_secs(60), |event| match event {
    ///     Event::Worker(worker) => println!("{:?} {:?}", worker.state, worker.phase),
    ///     Event::Download(download) => println!("{:?}", download.progress),
    ///     Event::Picture | Event::Hive(_) => {}
    /// })?;
    /// # Ok::<(), rbee_hive::client::ClientError>(())
    /// ```
    pub fn wait_ready_with(
        &self,
        id: &WorkerId,
        timeout: Duration,
        tell: impl FnMut(&Event),
    ) -> Result<Worker, ClientError> {
        let mut last = None;
        match self.follow(id, timeout, &mut last, tell, |worker| worker.state.serves()) {
            Ok(worker) if worker.state.serves() => Ok(worker),
            Ok(worker) => Err(ClientError::NotReady(Box::new(worker))),
            Err(ClientError::TimedOut) if let Some(worker) = last => {
                Err(ClientError::NotReady(Box::new(worker)))
            }
            Err(error) => Err(error),
        }
    }

    /// Waits until a worker has ended, at most for `timeout`: its last picture, whose `exit` says how. It does not
    /// have it stopped.
    ///
    /// # Errors
    /// [`ClientError::TimedOut`] if it takes longer; else as [`wait_ready`](Self::wait_ready).
    ///
    /// ```
    /// use std::time::Duration;
    /// use rbee_hive::api::SpawnRequest;
    /// # let hive = rbee_hive::mock::example::hive();
    /// let spawned = hive.spawn(&SpawnRequest::new("hf:org/tiny"))?;
    /// hive.stop(&spawned.worker_id, false)?;
    /// let last = hive.wait_gone(&spawned.worker_id, Duration::from_secs(60))?;
    /// println!("{:?}", last.exit);
    /// # Ok::<(), rbee_hive::client::ClientError>(())
    /// ```
    pub fn wait_gone(&self, id: &WorkerId, timeout: Duration) -> Result<Worker, ClientError> {
        self.follow(id, timeout, &mut None, |_| {}, |_| false)
    }

    /// Follows a worker until it is as `wanted`, or gone. `last`: as it was last seen.
    fn follow(
        &self,
        id: &WorkerId,
        timeout: Duration,
        last: &mut Option<Worker>,
        mut tell: impl FnMut(&Event),
        wanted: impl Fn(&Worker) -> bool,
    ) -> Result<Worker, ClientError> {
        let mut is_shown = false;
        let until = Instant::now() + timeout.min(CLIENT_WAIT_MAX);
        for event in Events::begin(self, Some(until))? {
            let event = match event? {
                // The picture is whole, and has no such worker: it has ended, or never was.
                Event::Hive(_) if !is_shown => {
                    let left = until.saturating_duration_since(Instant::now());
                    let hasty = self.clone().with_timeout(left.min(self.timeout));
                    Event::Worker(Box::new(hasty.worker(id)?))
                }
                event => event,
            };
            match &event {
                Event::Picture => is_shown = false,
                Event::Worker(worker) if worker.worker_id == *id => {
                    is_shown = true;
                    tell(&event);
                    *last = Some(Worker::clone(worker));
                    if worker.state == State::Gone || wanted(worker) {
                        return Ok(Worker::clone(worker));
                    }
                }
                Event::Download(download) => {
                    let of_it = last.as_ref().and_then(|worker| worker.download_id.as_ref());
                    if of_it == Some(&download.download_id) {
                        tell(&event);
                    }
                }
                Event::Worker(_) | Event::Hive(_) => {}
            }
        }
        Err(ClientError::BadAnswer("the events have an end".to_owned()))
    }
}
