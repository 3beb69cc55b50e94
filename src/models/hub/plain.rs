//! Files at addresses that are known: without repositories, lists and commits. What any web server serves.

use super::origin::HubOrigin;
use super::wire::{Answer, Asked, Wire};
use super::{Hub, head};
use crate::limits::HUB_BUFFER_BYTES;
use crate::models::remote::HubError;
use crate::net::Cut;

impl Hub {
    /// The short file at `path`, which begins with a slash and is quoted.
    ///
    /// # Errors
    /// If it does not come, or has more than `bytes_max` bytes.
    pub(crate) fn text(&self, path: &str, bytes_max: u64, cut: &Cut) -> Result<Vec<u8>, HubError> {
        self.wire(cut)?.text(&self.0.url(path)?, bytes_max)
    }

    /// How many bytes the file at `path` has.
    ///
    /// # Errors
    /// If the server does not give it, or does not tell.
    pub(crate) fn length(&self, path: &str, cut: &Cut) -> Result<u64, HubError> {
        let Answer { response, .. } = self.wire(cut)?.ask(&self.0.url(path)?, &Asked::First)?;
        head::check_unpacked(response.headers())?;
        let told = if response.status() == 206 {
            head::text(response.headers(), "content-range")
                .and_then(head::content_range)
                .and_then(|(_, all)| all)
        } else {
            response.body().content_length()
        };
        told.ok_or(HubError::BadAnswer("it does not say how long the file is"))
    }

    /// Where the bytes of all files come from, each by its path.
    pub(crate) fn files(&self, cut: &Cut) -> HubOrigin {
        HubOrigin::new(&self.0, "", cut)
    }

    fn wire(&self, cut: &Cut) -> Result<Wire, HubError> {
        Wire::new(&self.0, cut, None, HUB_BUFFER_BYTES).map_err(|error| HubError::Broken(error.kind()))
    }
}
