//! What a native worker tells its hive: once that it is ready, then that it lives.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, select};
use serde::Serialize;
use ureq::Agent;

use crate::api::{ReadyCallback, ReportedHealth, ReportedState, WorkerHeartbeat};
use crate::id::Token;
use crate::limits;
use crate::thread::Joined;

use super::Native;
use super::serve::Slots;

/// All that there is to tell.
pub(super) struct Teller {
    pub(super) native: Native,
    /// Where the worker listens.
    pub(super) url: String,
    pub(super) token: Option<Token>,
    pub(super) slots: Arc<Slots>,
    /// How long it loads before it is ready.
    pub(super) load: Duration,
    /// Whether the first heartbeat is the last.
    pub(super) silent: bool,
}

/// Starts telling; ends when `over` closes. Each of `changes` is told at once.
pub(super) fn start(teller: Teller, changes: Receiver<()>, over: Receiver<()>) -> io::Result<Joined> {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_global(Some(limits::MOCK_CALL_TIMEOUT))
        .proxy(None)
        .build();
    let agent = config.new_agent();
    let call = agent.clone();
    // A call that is under way breaks off.
    Joined::spawn("beats", move || agent.shutdown(), move || teller.tell(&call, &changes, &over))
}

impl Teller {
    fn tell(&self, agent: &Agent, changes: &Receiver<()>, over: &Receiver<()>) {
        let is_over = |time| over.recv_timeout(time) != Err(RecvTimeoutError::Timeout);
        if is_over(self.load) {
            return;
        }
        let mut retry = limits::MOCK_RETRY_FIRST;
        while !self.call(agent, "/v1/workers/ready", &self.ready()) {
            if is_over(retry) {
                return;
            }
            retry = (retry * 2).min(limits::MOCK_RETRY_MAX);
        }
        eprintln!("ready");
        let interval = self.native.interval;
        loop {
            let heard = self.call(agent, "/v1/heartbeat", &self.heartbeat());
            if self.silent {
                return eprintln!("falling silent, on request");
            }
            select! {
                recv(over) -> _ => return,
                recv(changes) -> _ => {}
                default(if heard { interval } else { interval.min(limits::MOCK_RETRY_MAX) }) => {}
            }
        }
    }

    fn ready(&self) -> ReadyCallback {
        let Native { worker_id, model_ref, backend, device, .. } = self.native.clone();
        let slots_total = Some(self.slots.total());
        ReadyCallback { worker_id, url: self.url.clone(), model_ref, backend, device, slots_total }
    }

    fn heartbeat(&self) -> WorkerHeartbeat {
        let total = self.slots.total();
        let available = total - self.slots.running();
        WorkerHeartbeat {
            worker_id: self.native.worker_id.clone(),
            timestamp: format!("{:.3}", jiff::Timestamp::now()),
            health_status: ReportedHealth::Healthy,
            state: Some(if available == 0 { ReportedState::Busy } else { ReportedState::Ready }),
            slots_total: Some(total),
            slots_available: Some(available),
        }
    }

    /// Whether the hive answered 200.
    fn call(&self, agent: &Agent, path: &str, body: &impl Serialize) -> bool {
        let body = serde_json::to_vec(body).expect("wire types are valid JSON");
        let mut request = agent
            .post(format!("{}{path}", self.native.hive_url.trim_end_matches('/')))
            .header("Content-Type", "application/json");
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {}", token.secret()));
        }
        match request.send(body.as_slice()) {
            Ok(answer) if answer.status() == 200 => true,
            Ok(answer) => {
                eprintln!("hive refused path={path} status={}", answer.status().as_u16());
                false
            }
            Err(e) => {
                eprintln!("hive not reached path={path} why={:?}", e.to_string());
                false
            }
        }
    }
}
