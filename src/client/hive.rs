//! The hive itself: how it is, what it has, and its end.

use super::transport::{parsed, refused};
use super::{ClientError, HiveClient};
use crate::api::{
    Devices, DrainRequest, DrainResponse, Health, Readiness, ShutdownRequest, ShutdownResponse,
    ShutdownWorkers, Status,
};

impl HiveClient {
    /// `GET /v1/health`: whether it lives, and what is wrong with it. Needs no token.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`].
    ///
    /// ```
    /// # let hive = rbee_hive::mock::example::hive();
    /// for reason in hive.health()?.reasons {
    ///     println!("{} since {}", reason.message, reason.since);
    /// }
    /// # Ok::<(), rbee_hive::client::ClientError>(())
    /// ```
    pub fn health(&self) -> Result<Health, ClientError> {
        self.read("/v1/health")
    }

    /// `GET /ready`: whether it takes spawns. Needs no token.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`]; that it takes none is an answer.
    ///
    /// ```
    /// use rbee_hive::api::{HiveStatus, Readiness};
    /// # let hive = rbee_hive::mock::example::hive();
    /// assert_eq!(hive.readiness()?, Readiness::Ready);
    /// hive.drain(true)?;
    /// assert_eq!(hive.readiness()?, Readiness::NotReady { reason: HiveStatus::Draining });
    /// # Ok::<(), rbee_hive::client::ClientError>(())
    /// ```
    pub fn readiness(&self) -> Result<Readiness, ClientError> {
        let answer = self.ask("/ready")?;
        match answer.0.status().as_u16() {
            200 => parsed(&answer.1),
            503 => parsed(&answer.1).map_err(|_| refused(&answer)),
            _ => Err(refused(&answer)),
        }
    }

    /// `GET /v1/status`: the whole picture in one answer.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`].
    ///
    /// ```
    /// # let hive = rbee_hive::mock::example::hive();
    /// let status = hive.status()?;
    /// println!("{} is {:?}: {} workers", status.hive_id, status.status, status.workers.len());
    /// println!("{} bytes of its memory are promised", status.devices.cpu.promised_bytes);
    /// # Ok::<(), rbee_hive::client::ClientError>(())
    /// ```
    pub fn status(&self) -> Result<Status, ClientError> {
        self.read("/v1/status")
    }

    /// `GET /v1/devices`.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`].
    ///
    /// ```
    /// # let hive = rbee_hive::mock::example::hive();
    /// let devices = hive.devices()?;
    /// println!("{} cores, {} GiB", devices.cpu.cores, devices.cpu.ram_gb);
    /// for gpu in devices.gpus {
    ///     println!("{} {}: {} bytes free", gpu.id, gpu.name, gpu.vram_free_bytes);
    /// }
    /// # Ok::<(), rbee_hive::client::ClientError>(())
    /// ```
    pub fn devices(&self) -> Result<Devices, ClientError> {
        self.read("/v1/devices")
    }

    /// `POST /v1/drain`: has the hive refuse spawns, or take them again; its workers serve on.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`].
    ///
    /// ```
    /// # let hive = rbee_hive::mock::example::hive();
    /// assert!(hive.drain(true)?.draining);
    /// assert!(!hive.drain(false)?.draining);
    /// # Ok::<(), rbee_hive::client::ClientError>(())
    /// ```
    pub fn drain(&self, drain: bool) -> Result<DrainResponse, ClientError> {
        self.post("/v1/drain", &DrainRequest { drain, stop_idle: false })
    }

    /// The same, and workers without a request are stopped, now and later.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`].
    ///
    /// ```
    /// # let hive = rbee_hive::mock::example::hive();
    /// println!("{} workers are left", hive.drain_idle()?.workers);
    /// # Ok::<(), rbee_hive::client::ClientError>(())
    /// ```
    pub fn drain_idle(&self) -> Result<DrainResponse, ClientError> {
        self.post("/v1/drain", &DrainRequest { drain: true, stop_idle: true })
    }

    /// `POST /v1/shutdown`: ends the hive; with `keep_workers` its workers go on serving, for the next hive.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`].
    ///
    /// ```
    /// # let hive = rbee_hive::mock::example::hive();
    /// println!("{} workers are being stopped", hive.shutdown(false)?.workers);
    /// # Ok::<(), rbee_hive::client::ClientError>(())
    /// ```
    pub fn shutdown(&self, keep_workers: bool) -> Result<ShutdownResponse, ClientError> {
        let workers = if keep_workers { ShutdownWorkers::Keep } else { ShutdownWorkers::Stop };
        self.post("/v1/shutdown", &ShutdownRequest { workers })
    }
}
