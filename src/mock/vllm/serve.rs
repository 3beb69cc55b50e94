//! What a stand-in for vLLM answers once its model is loaded.

use std::sync::Arc;

use crossbeam_channel::Receiver;

use crate::http::{Answer, ApiError, Body, Method, Request};
use crate::mock::desk::{self, Handler, Route};
use crate::mock::worker::{Slots, work};

/// What requests are answered from.
pub(super) struct Serving {
    pub(super) slots: Arc<Slots>,
    pub(super) served_name: String,
    /// Closed when it ends.
    pub(super) over: Receiver<()>,
}

impl Serving {
    /// As two engines beside each other tell it; the names around the one that counts are there to be
    /// mistaken for it.
    fn metrics(&self) -> Answer {
        let running = self.slots.running();
        let model = self.served_name.replace('\\', "\\\\").replace('"', "\\\"");
        let mut text = String::from(
            "# HELP vllm:num_requests_running Number of requests in model execution batches.\n\
             # TYPE vllm:num_requests_running gauge\n",
        );
        for (engine, own) in [running.div_ceil(2), running / 2].into_iter().enumerate() {
            let labels = format!("{{engine=\"{engine}\",model_name=\"{model}\"}}");
            text.push_str(&format!("vllm:num_requests_running{labels} {own}.0\n"));
            text.push_str(&format!("vllm:num_requests_running_created{labels} 1.7648e+09\n"));
            text.push_str(&format!("vllm:num_requests_waiting{labels} 3.0\n"));
            text.push_str(&format!("vllm:num_requests{labels} 9.0\n"));
        }
        Answer::bytes(200, "text/plain; version=0.0.4; charset=utf-8", Body::Owned(text.into_bytes()))
    }
}

impl Handler for Serving {
    const ROUTES: &'static [Route] = &[
        Route { method: Method::Get, path: "/health", guarded: false },
        Route { method: Method::Get, path: "/metrics", guarded: false },
        Route { method: Method::Post, path: "/v1/completions", guarded: false },
    ];

    fn answer(&self, request: &Request) -> Result<Answer, ApiError> {
        Ok(match request.head.path.as_str() {
            "/health" => Answer::bytes(200, "text/plain", Body::Owned(Vec::new())),
            "/metrics" => self.metrics(),
            _ => work(&self.slots, &self.over, &desk::body(request)?)?,
        })
    }
}
