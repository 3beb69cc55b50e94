//! Models: what is in the cache, and what is being fetched.

use super::progress::ProgressEvents;
use super::resume::Resuming;
use super::transport::encoded;
use super::{ClientError, HiveClient};
use crate::api::{DownloadRequest, DownloadResponse, Model, ModelList};

impl HiveClient {
    /// `GET /v1/models`: what is in the model cache.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`].
    ///
    /// ```
    /// # let hive = rbee_hive::mock::example::hive();
    /// for model in hive.models()? {
    ///     println!("{}: {} bytes", model.model_ref, model.size_bytes);
    /// }
    /// # Ok::<(), rbee_hive::client::ClientError>(())
    /// ```
    pub fn models(&self) -> Result<Vec<Model>, ClientError> {
        self.read("/v1/models").map(|list: ModelList| list.models)
    }

    /// `DELETE /v1/models`: removes `model` from the cache.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`]; 409 `MODEL_IN_USE` while a worker uses it.
    ///
    /// ```
    /// # let hive = rbee_hive::mock::example::hive();
    /// hive.delete_model("hf:org/tiny")?;
    /// # assert!(hive.models()?.is_empty());
    /// # Ok::<(), rbee_hive::client::ClientError>(())
    /// ```
    pub fn delete_model(&self, model: &str) -> Result<(), ClientError> {
        self.delete(&format!("/v1/models?ref={}", encoded(model)))
    }

    /// `POST /v1/models/download`: begins to fetch `model`, or joins who does.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`].
    ///
    /// ```
    /// # let hive = rbee_hive::mock::example::hive();
    /// let begun = hive.download("hf:org/tiny")?;
    /// match begun.local_path {
    ///     Some(path) => println!("it is here already: {path}"),
    ///     None => println!("ask for the progress of {}", begun.download_id),
    /// }
    /// # Ok::<(), rbee_hive::client::ClientError>(())
    /// ```
    pub fn download(&self, model: &str) -> Result<DownloadResponse, ClientError> {
        self.post("/v1/models/download", &DownloadRequest { model_ref: model.to_owned() })
    }

    /// `GET /v1/models/download/progress`: how far the download `id` is, first as it is now, then each change;
    /// after `last_event_id` where one is given, if the hive still knows that.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`]; 404 `DOWNLOAD_NOT_FOUND` for one that is not known, or not any more.
    ///
    /// ```
    /// use rbee_hive::api::Progress;
    /// # let hive = rbee_hive::mock::example::hive();
    /// let begun = hive.download("hf:org/other")?;
    /// for event in hive.progress(&begun.download_id, None)? {
    ///     match event?.1 {
    ///         Progress::Complete { local_path } => println!("it is at {local_path}"),
    ///         Progress::Error { code, message } => println!("{message} ({code})"),
    ///         progress => println!("{progress:?}"),
    ///     }
    /// }
    /// # Ok::<(), rbee_hive::client::ClientError>(())
    /// ```
    pub fn progress(&self, id: &str, last_event_id: Option<u64>) -> Result<ProgressEvents, ClientError> {
        let path = format!("/v1/models/download/progress?id={}", encoded(id));
        Resuming::begin(self, path, last_event_id, None).map(ProgressEvents::new)
    }

    /// `DELETE /v1/models/download`: ends a download for all who wait for it; what is here stays for resuming.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`]; 404 `DOWNLOAD_NOT_FOUND` for one that is not known, or not any more.
    ///
    /// ```
    /// use rbee_hive::client::Code;
    /// # let hive = rbee_hive::mock::example::hive();
    /// let error = hive.cancel_download("d-0123456789abcdef").unwrap_err();
    /// assert_eq!(error.code(), Some(Code::DownloadNotFound));
    /// ```
    pub fn cancel_download(&self, id: &str) -> Result<(), ClientError> {
        self.delete(&format!("/v1/models/download?id={}", encoded(id)))
    }
}
