//! Whether a model fits.

use std::fmt::Write as _;

use serde::Serialize;
use ureq::http::Response;

use super::transport::encoded;
use super::{ClientError, Code, HiveClient};
use crate::api::{self, CapacityAnswer};

/// What is asked about a model; what is `None` is left to the hive.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CapacityQuery {
    /// As spawn takes it: `hf:org/repo:QUANT`, `file:/path`.
    pub model: String,
    /// `cpu`, `gpu0`, or several GPUs joined by commas.
    pub device: Option<String>,
    /// Context tokens, shared by all slots.
    pub ctx: Option<u32>,
    /// Slots.
    pub parallel: Option<u32>,
    /// How the worker would be launched.
    pub kind: Option<String>,
}

impl CapacityQuery {
    /// About `model`, with everything else as the hive chooses it.
    pub fn new(model: &str) -> Self {
        Self { model: model.to_owned(), ..Self::default() }
    }

    fn path(&self) -> String {
        let mut path = format!("/v1/capacity?model={}", encoded(&self.model));
        let numbers = [("ctx", self.ctx), ("parallel", self.parallel)];
        for (name, number) in numbers.into_iter().filter_map(|(name, number)| Some((name, number?))) {
            let _ = write!(path, "&{name}={number}");
        }
        let texts = [("device", &self.device), ("kind", &self.kind)];
        for (name, text) in texts.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?))) {
            let _ = write!(path, "&{name}={}", encoded(text));
        }
        path
    }
}

/// Whether a model fits, and what that takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Capacity {
    /// A worker would be admitted now.
    pub fits: bool,
    /// For a person, if it does not fit.
    pub message: Option<String>,
    /// The figures.
    #[serde(flatten)]
    pub answer: CapacityAnswer,
}

impl HiveClient {
    /// `GET /v1/capacity`: whether a worker would be admitted now.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`]; that it does not fit is an answer.
    ///
    /// ```
    /// use rbee_hive::client::CapacityQuery;
    /// # let hive = rbee_hive::mock::example::hive();
    /// let query = CapacityQuery { ctx: Some(8192), ..CapacityQuery::new("hf:org/tiny") };
    /// let capacity = hive.capacity(&query)?;
    /// if capacity.fits {
    ///     println!("{} takes it: {} bytes", capacity.answer.device, capacity.answer.required_bytes);
    /// } else {
    ///     println!("{:?} fits instead", capacity.answer.suggestions);
    /// }
    /// # assert!(capacity.fits);
    /// # Ok::<(), rbee_hive::client::ClientError>(())
    /// ```
    pub fn capacity(&self, query: &CapacityQuery) -> Result<Capacity, ClientError> {
        let error = match self.get(&query.path()) {
            Ok((head, _)) => return Ok(Capacity { fits: true, message: None, answer: told(&head)? }),
            Err(error) => error,
        };
        match (error.code(), error) {
            (
                Some(Code::InsufficientVram | Code::InsufficientRam),
                ClientError::Refused { error: Some(error), .. },
            ) => {
                let answer = serde_json::from_value(error.details)
                    .map_err(|e| ClientError::BadAnswer(e.to_string()))?;
                Ok(Capacity { fits: false, message: Some(error.message), answer })
            }
            (_, error) => Err(error),
        }
    }
}

/// What `GET /v1/capacity` says where the model fits.
fn told(head: &Response<()>) -> Result<CapacityAnswer, ClientError> {
    let text = |name: &str| {
        let value = head.headers().get(name).and_then(|value| value.to_str().ok());
        value.ok_or_else(|| ClientError::BadAnswer(format!("{name} is missing")))
    };
    let bytes =
        |name: &str| text(name)?.parse().map_err(|_| ClientError::BadAnswer(format!("{name} is no number")));
    Ok(CapacityAnswer {
        device: text(api::DEVICE_HEADER)?.to_owned(),
        required_bytes: bytes(api::REQUIRED_HEADER)?,
        available_bytes: bytes(api::AVAILABLE_HEADER)?,
        breakdown: None,
        suggestions: Vec::new(),
        weights_bytes_max: None,
    })
}
