//! `POST /v1/workers/spawn`: state, arguments, kind, device, model, in this order; then the supervisor.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use log::info;

use crate::api::{HiveStatus, SpawnResponse};
use crate::capacity::estimate::Breakdown;
use crate::capacity::ledger::{Choice, Placement};
use crate::http::{Answer, ApiError, Code, Request};
use crate::kinds::allow;
use crate::lifecycle::event::{Key, Order, Plan};
use crate::lifecycle::fleet::{AdmitError, View};
use crate::limits::IDEMPOTENCY_KEY_BYTES_MAX;

use super::arguments::{Arguments, wrong};
use super::locate::{Halt, no_space};
use super::weigh::{Weighed, weigh};
use super::wish::Wish;
use super::{Api, capacity, draining, no_answer, shutting_down};

pub(super) fn spawn(api: &Api, request: &Request, online: Option<Instant>) -> Result<Answer, Halt> {
    let spawned = admit(api, request, online);
    match &spawned {
        Ok(_) => api.spawns.count("accepted"),
        Err(Halt::Refused(error)) => api.spawns.count(error.code().wire().1),
        // It is asked again on a thread that may wait for the hub.
        Err(Halt::AskHub) => {}
    }
    spawned
}

fn admit(api: &Api, request: &Request, online: Option<Instant>) -> Result<Answer, Halt> {
    // In a drained hive, too, the same key gives the same worker.
    if api.picture.snapshot().status != HiveStatus::Draining {
        api.check_takes_spawns()?;
    }
    let key = idempotency_key(request)?;
    if let Some(key) = &key
        && let Some(view) = api.inbox.spawned(key.clone()).map_err(no_answer)?
    {
        return Ok(accepted(api, view));
    }
    api.check_takes_spawns()?;
    let (order, wish, weighed) = order(api, &Arguments::parse(&request.body)?, key, online)?;
    let admitted = api.inbox.spawn(order).map_err(no_answer)?.map_err(|error| match error {
        AdmitError::NoRoom(refused) => capacity::refusal(api, &wish, &weighed, refused),
        other => refusal(&other),
    })?;
    if !admitted.again {
        tell(&admitted.view, &weighed);
    }
    Ok(accepted(api, admitted.view))
}

fn accepted(api: &Api, view: View) -> Answer {
    let url = api.picture.worker_url(view.port);
    let location = format!("/v1/workers/{}", view.id);
    let body = SpawnResponse { worker_id: view.id, url, state: view.state };
    Answer::json(202, &body).with_header("Location", location)
}

fn idempotency_key(request: &Request) -> Result<Option<String>, ApiError> {
    let given = request.head.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("Idempotency-Key"));
    if !given {
        return Ok(None);
    }
    let good = |key: &&str| {
        (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic())
    };
    let key = request.head.header("Idempotency-Key").filter(good);
    key.map(|key| Some(key.to_owned())).ok_or_else(|| {
        wrong(
            "Idempotency-Key",
            &format!("one header of 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible characters"),
        )
    })
}

/// Checks the arguments, then finds kind, device and model, in this order.
fn order(
    api: &Api,
    arguments: &Arguments,
    key: Option<String>,
    online: Option<Instant>,
) -> Result<(Order, Wish, Weighed), Halt> {
    let wish = Wish::read(arguments, "model_ref")?;
    let (first, last) = (*api.worker_ports.start(), *api.worker_ports.end());
    let port_hint = arguments.number("port_hint", first..=last)?;
    let pinned = arguments.flag("pinned")?.unwrap_or(false);
    let weighed = weigh(api, &wish, online)?;
    let fetch = weighed.model.selection().cloned();
    if let Some(selection) = &fetch {
        api.downloads.check_disk(selection).map_err(no_space)?;
    }
    let refused = |refused: allow::Refused| ApiError::argument(refused.field, refused.message);
    let plan = Plan {
        kind: Arc::clone(&weighed.kind),
        model_ref: wish.model_ref.to_string(),
        model_path: weighed.model.path().to_owned(),
        ctx: weighed.ctx,
        parallel: wish.parallel,
        port_hint,
        env: allow::env(&weighed.kind, &wish.env).map_err(refused)?,
        extra_args: allow::extra_args(&weighed.kind, &wish.extra_args).map_err(refused)?,
        pinned,
        key: key.map(|text| Key { text, at: SystemTime::now() }),
    };
    let order = Order { plan, choices: weighed.choices.clone(), make_room: wish.make_room, fetch };
    Ok((order, wish, weighed))
}

/// What was promised, and what for.
fn tell(view: &View, weighed: &Weighed) {
    let Placement { backend, shares, host_bytes: _ } = &*view.placement;
    let devices = view.placement.device();
    let of_these = |choice: &&Choice| {
        choice.backend == *backend && choice.devices.iter().eq(shares.iter().map(|share| &share.device))
    };
    let Breakdown { weights, kv_cache, compute, constant } =
        weighed.choices.iter().find(of_these).and_then(|choice| choice.need.breakdown).unwrap_or_default();
    info!(
        "memory promised worker={} device={devices} bytes={} weights={weights} kv_cache={kv_cache} \
         compute={compute} constant={constant}",
        view.id,
        view.placement.bytes()
    );
}

fn refusal(error: &AdmitError) -> ApiError {
    match error {
        AdmitError::TooManyWorkers => {
            ApiError::new(Code::Overloaded, "this hive has as many workers as it can have")
        }
        AdmitError::NoFreePort => ApiError::new(Code::NoFreePort, "no port of --worker-ports is free"),
        AdmitError::Draining => draining(),
        AdmitError::ShuttingDown | AdmitError::NoRoom(_) => shutting_down(),
    }
}
