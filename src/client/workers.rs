//! Workers: their beginning, what they are, their logs, and their end.

use std::time::Instant;

use super::logs::LogLines;
use super::resume::Resuming;
use super::{ClientError, HiveClient};
use crate::api::{SpawnRequest, SpawnResponse, Worker, WorkerList};
use crate::id::WorkerId;
use crate::limits::{CLIENT_RETURN_FIRST, CLIENT_RETURN_MAX, IDEMPOTENCY_KEY_BYTES_MAX};

impl HiveClient {
    /// `POST /v1/workers/spawn`: begins a worker, and does not wait until it is ready.
    ///
    /// Sent under an `Idempotency-Key` of its own. While the answer is lost (the connection ends, or a gateway answers
    /// in the hive's place) it is repeated under the same key, which gives one worker however often it arrives, until
    /// [`with_timeout`](Self::with_timeout) is over. The hive may be replaced meanwhile: the next one knows the keys
    /// of the workers that it has adopted.
    ///
    /// # Errors
    /// [`ClientError::Refused`]: it was not spawned. [`ClientError::Unreachable`]: it was never sent.
    /// [`ClientError::Unknown`]: it was sent, and what came of it is not known.
    ///
    /// ```
    /// use rbee_hive::api::SpawnRequest;
    /// # let hive = rbee_hive::mock::example::hive();
    /// let request = SpawnRequest {
    ///     device: Some("cpu".to_owned()),
    ///     ctx: Some(4096),
    ///     ..SpawnRequest::new("hf:org/tiny")
    /// };
    /// let spawned = hive.spawn(&request)?;
    /// println!("{} will serve at {}", spawned.worker_id, spawned.url);
    /// # Ok::<(), rbee_hive::client::ClientError>(())
    /// ```
    pub fn spawn(&self, request: &SpawnRequest) -> Result<SpawnResponse, ClientError> {
        self.spawn_with_key(request, &uuid::Uuid::new_v4().to_string())
    }

    /// The same under a key of the caller's, who can ask again later: the same key within 10 minutes gives the same
    /// worker, whatever became of it. A hive that was started since knows those that it has adopted.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn); [`ClientError::BadKey`].
    ///
    /// ```
    /// use rbee_hive::api::SpawnRequest;
    /// # let hive = rbee_hive::mock::example::hive();
    /// let request = SpawnRequest::new("hf:org/tiny");
    /// let first = hive.spawn_with_key(&request, "order-4711")?;
    /// let again = hive.spawn_with_key(&request, "order-4711")?;
    /// assert_eq!(first.worker_id, again.worker_id);
    /// # Ok::<(), rbee_hive::client::ClientError>(())
    /// ```
    pub fn spawn_with_key(&self, request: &SpawnRequest, key: &str) -> Result<SpawnResponse, ClientError> {
        if !(1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len()) || !key.bytes().all(|b| b.is_ascii_graphic())
        {
            return Err(ClientError::BadKey);
        }
        let until = Instant::now() + self.timeout;
        let (mut may_have_come, mut pause) = (false, CLIENT_RETURN_FIRST);
        loop {
            let error = match self.post_under("/v1/workers/spawn", request, key, until) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let answer = Lost::of(&error);
            may_have_come |= answer == Lost::Perhaps;
            let is_over = match answer {
                Lost::Perhaps => Instant::now() + pause >= until,
                // With the key, the hive would have told of a worker before it judged the request.
                Lost::Refused if !matches!(&error, ClientError::Refused { status: 500.., .. }) => {
                    return Err(error);
                }
                Lost::NotSent if may_have_come => Instant::now() + pause >= until,
                Lost::Refused | Lost::NotSent => true,
            };
            if is_over && may_have_come {
                return Err(ClientError::Unknown { key: key.to_owned(), cause: Box::new(error) });
            }
            if is_over {
                return Err(error);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(CLIENT_RETURN_MAX);
        }
    }

    /// `GET /v1/workers`: those that live, by name.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`].
    ///
    /// ```
    /// # let hive = rbee_hive::mock::example::hive();
    /// for worker in hive.workers()? {
    ///     println!("{} {} {}", worker.worker_id, worker.state.as_str(), worker.model_ref);
    /// }
    /// # Ok::<(), rbee_hive::client::ClientError>(())
    /// ```
    pub fn workers(&self) -> Result<Vec<Worker>, ClientError> {
        self.read("/v1/workers").map(|list: WorkerList| list.workers)
    }

    /// `GET /v1/workers/<id>`: a worker as it is; for 10 minutes after its end as it was last, with the state
    /// [`Gone`](crate::api::State::Gone) and its `exit`.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`]; 404 `WORKER_NOT_FOUND` for one that never was, or ended longer ago.
    ///
    /// ```
    /// use rbee_hive::api::{SpawnRequest, State};
    /// # let hive = rbee_hive::mock::example::hive();
    /// # let id = hive.spawn(&SpawnRequest::new("hf:org/tiny"))?.worker_id;
    /// let worker = hive.worker(&id)?;
    /// if worker.state == State::Gone {
    ///     println!("it has ended: {:?}", worker.exit);
    /// }
    /// # Ok::<(), rbee_hive::client::ClientError>(())
    /// ```
    pub fn worker(&self, id: &WorkerId) -> Result<Worker, ClientError> {
        self.read(&format!("/v1/workers/{id}")).or_else(|error: ClientError| {
            let last = error.object().and_then(|object| object.details.get("last"));
            last.and_then(|last| serde_json::from_value(last.clone()).ok()).ok_or(error)
        })
    }

    /// `DELETE /v1/workers/<id>`: has a worker stopped, with `force` by SIGKILL at once. Does not wait for its end.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`]; 404 `WORKER_NOT_FOUND` if it has ended, or never was.
    ///
    /// ```
    /// use rbee_hive::api::SpawnRequest;
    /// # let hive = rbee_hive::mock::example::hive();
    /// # let id = hive.spawn(&SpawnRequest::new("hf:org/tiny"))?.worker_id;
    /// hive.stop(&id, false)?;
    /// # Ok::<(), rbee_hive::client::ClientError>(())
    /// ```
    pub fn stop(&self, id: &WorkerId, force: bool) -> Result<(), ClientError> {
        self.delete(&format!("/v1/workers/{id}{}", if force { "?force=true" } else { "" }))
    }

    /// `GET /v1/workers/<id>/logs`: the last `tail` lines of a worker's log, each with its end.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`].
    ///
    /// ```
    /// # use rbee_hive::api::SpawnRequest;
    /// # let hive = rbee_hive::mock::example::hive();
    /// # let id = hive.spawn(&SpawnRequest::new("hf:org/tiny"))?.worker_id;
    /// print!("{}", hive.logs(&id, 100)?);
    /// # Ok::<(), rbee_hive::client::ClientError>(())
    /// ```
    pub fn logs(&self, id: &WorkerId, tail: usize) -> Result<String, ClientError> {
        self.text(&format!("/v1/workers/{id}/logs?tail={tail}"))
    }

    /// The same of the run before the last one that stands in the log.
    ///
    /// # Errors
    /// As [`logs`](Self::logs); 404 `NOT_FOUND` where there is no such run.
    ///
    /// ```
    /// # use rbee_hive::api::SpawnRequest;
    /// # let hive = rbee_hive::mock::example::hive();
    /// # let id = hive.spawn(&SpawnRequest::new("hf:org/tiny"))?.worker_id;
    /// match hive.previous_logs(&id, 100) {
    ///     Ok(log) => print!("{log}"),
    ///     Err(error) => println!("{error}"),
    /// }
    /// # Ok::<(), rbee_hive::client::ClientError>(())
    /// ```
    pub fn previous_logs(&self, id: &WorkerId, tail: usize) -> Result<String, ClientError> {
        self.text(&format!("/v1/workers/{id}/logs?tail={tail}&previous=true"))
    }

    /// The same as it grows, until the worker is gone; after the place `last_event_id` where one is given, if the
    /// log still has that.
    ///
    /// # Errors
    /// As [`logs`](Self::logs).
    ///
    /// ```
    /// # use rbee_hive::api::SpawnRequest;
    /// # let hive = rbee_hive::mock::example::hive();
    /// # let id = hive.spawn(&SpawnRequest::new("hf:org/tiny"))?.worker_id;
    /// for line in hive.follow_logs(&id, 10, None)? {
    ///     let (_, line) = line?;
    ///     print!("{line}");
    /// #   break;
    /// }
    /// # Ok::<(), rbee_hive::client::ClientError>(())
    /// ```
    pub fn follow_logs(
        &self,
        id: &WorkerId,
        tail: usize,
        last_event_id: Option<u64>,
    ) -> Result<LogLines, ClientError> {
        let path = format!("/v1/workers/{id}/logs?tail={tail}&follow=true");
        Resuming::begin(self, path, last_event_id, None).map(LogLines)
    }

    fn text(&self, path: &str) -> Result<String, ClientError> {
        let (_, body) = self.get(path)?;
        String::from_utf8(body).map_err(|_| ClientError::BadAnswer("it is no text".to_owned()))
    }
}

/// What an error says about a request that changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lost {
    /// Nobody was there to take it.
    NotSent,
    /// A hive has said no.
    Refused,
    /// It may have been taken.
    Perhaps,
}

impl Lost {
    fn of(error: &ClientError) -> Self {
        match error {
            ClientError::Unreachable(_) if !error.is_cut() => Self::NotSent,
            ClientError::Refused { error: Some(_), .. } | ClientError::Refused { status: ..500, .. } => {
                Self::Refused
            }
            _ => Self::Perhaps,
        }
    }
}
