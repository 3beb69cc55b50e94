//! What a native worker tells its hive: once that it is ready, then that it lives.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, select};
use serde::Serialize;
use ureq::Agent;

use crate::api::{ReadyCallback, ReportedHealth, ReportedState, WorkerHeartbeat};
use crate::id::{Token, WorkerId};
use crate::limits;
use crate::mock::fault::Faults;
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
    /// What it does wrong.
    pub(super) faults: Faults,
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
            if self.faults.silent {
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
        let Native { model_ref, backend, device, .. } = self.native.clone();
        let slots_total = Some(self.slots.total());
        let worker_id = self.name();
        ReadyCallback { worker_id, url: self.url.clone(), model_ref, backend, device, slots_total }
    }

    fn heartbeat(&self) -> WorkerHeartbeat {
        let total = self.slots.total();
        let running = if self.faults.never_busy { 0 } else { self.slots.running() };
        let available = total - running;
        let told = !self.faults.no_state;
        WorkerHeartbeat {
            worker_id: self.name(),
            timestamp: format!("{:.3}", jiff::Timestamp::now()),
            health_status: ReportedHealth::Healthy,
            state: told.then_some(if available == 0 { ReportedState::Busy } else { ReportedState::Ready }),
            slots_total: told.then_some(total),
            slots_available: told.then_some(available),
        }
    }

    fn name(&self) -> WorkerId {
        let own = &self.native.worker_id;
        if !self.faults.wrong_id {
            return own.clone();
        }
        let other = own.as_str().chars().rev().collect::<String>().parse();
        other.expect("what makes a name makes one backwards")
    }

    /// Whether the hive answered 200.
    fn call(&self, agent: &Agent, path: &str, body: &impl Serialize) -> bool {
        let heard = self.try_call(agent, path, body);
        if !heard && self.faults.give_up {
            eprintln!("giving up, on request");
            std::process::exit(1);
        }
        heard
    }

    fn try_call(&self, agent: &Agent, path: &str, body: &impl Serialize) -> bool {
        let body = serde_json::to_vec(body).expect("wire types are valid JSON");
        let mut request = agent
            .post(format!("{}{path}", self.native.hive_url.trim_end_matches('/')))
            .header("Content-Type", "application/json");
        if let Some(token) = self.token.as_ref().filter(|_| !self.faults.no_token) {
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
