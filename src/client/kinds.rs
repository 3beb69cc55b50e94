//! Kinds: what a hive can launch.

use super::progress::ProgressEvents;
use super::transport::{encoded, events, send};
use super::{ClientError, HiveClient};
use crate::api::{KindInfo, KindList, Progress, ProvisionRequest, ProvisionResponse};

const PROVISION: &str = "/v1/workers/provision";

impl HiveClient {
    /// `GET /v1/workers/kinds`: what the hive can launch.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`].
    ///
    /// ```
    /// # let hive = rbee_hive::mock::example::hive();
    /// for kind in hive.kinds()?.iter().filter(|kind| kind.found) {
    ///     println!("{} {}", kind.kind, kind.version.as_deref().unwrap_or("?"));
    /// }
    /// # Ok::<(), rbee_hive::client::ClientError>(())
    /// ```
    pub fn kinds(&self) -> Result<Vec<KindInfo>, ClientError> {
        self.read("/v1/workers/kinds").map(|list: KindList| list.kinds)
    }

    /// `POST /v1/workers/provision`: has a kind's program installed, and waits for it however long that takes.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`].
    ///
    /// ```
    /// use rbee_hive::api::ProvisionRequest;
    /// # let hive = rbee_hive::mock::example::hive();
    /// let installed = hive.provision(&ProvisionRequest::new("mock"))?;
    /// println!("{} is at {}", installed.kind, installed.path);
    /// # Ok::<(), rbee_hive::client::ClientError>(())
    /// ```
    pub fn provision(&self, request: &ProvisionRequest) -> Result<ProvisionResponse, ClientError> {
        for event in self.provision_progress(request)? {
            if let (_, Progress::Error { code, message }) = event? {
                return Err(ClientError::Failed { code, message });
            }
        }
        // Now it is here, and this tells where.
        self.post(PROVISION, request)
    }

    /// The same as it goes on: how far it is, first as it is now, then each change. It goes on, too, when nobody
    /// looks any more. A connection that ends is not come back to: asking again joins what is under way.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`].
    ///
    /// ```
    /// use rbee_hive::api::{Progress, ProvisionRequest};
    /// # let hive = rbee_hive::mock::example::hive();
    /// for event in hive.provision_progress(&ProvisionRequest::new("mock"))? {
    ///     let (_, progress) = event?;
    ///     println!("{progress:?}");
    /// }
    /// # Ok::<(), rbee_hive::client::ClientError>(())
    /// ```
    pub fn provision_progress(&self, request: &ProvisionRequest) -> Result<ProgressEvents, ClientError> {
        let answer = send(self.patient(self.posting(PROVISION), None)?, request)?;
        events(answer).map(ProgressEvents::of)
    }

    /// `DELETE /v1/workers/kinds`: has what was installed of a kind removed.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`].
    ///
    /// ```
    /// use rbee_hive::client::Code;
    /// # let hive = rbee_hive::mock::example::hive();
    /// let error = hive.remove_kind("never-heard-of").unwrap_err();
    /// assert_eq!(error.code(), Some(Code::KindNotFound));
    /// ```
    pub fn remove_kind(&self, kind: &str) -> Result<(), ClientError> {
        self.delete(&format!("/v1/workers/kinds?kind={}", encoded(kind)))
    }
}
