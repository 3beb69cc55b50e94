//! `GET /v1/workers/kinds`: what this hive can launch.

use crate::api::KindList;
use crate::http::{Answer, Ticket};
use crate::kinds::listing;
use crate::limits::VERSION_WAIT;

use super::Api;

/// Answers once the versions are known, or have been waited for long enough; holds no request thread for that.
pub(super) fn list(api: &Api) -> Box<dyn FnOnce(Ticket)> {
    let (mut kinds, programs) = listing::list(&api.kinds.get());
    let versions = api.versions.clone();
    Box::new(move |ticket| {
        versions.ask(programs, VERSION_WAIT, move |versions| {
            for (kind, version) in kinds.iter_mut().zip(versions) {
                kind.version = version.or(kind.version.take());
            }
            ticket.answer(Answer::json(200, &KindList { kinds }));
        });
    })
}
