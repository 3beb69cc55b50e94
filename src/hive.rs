//! Puts the parts together: the map of the program.
//!
//! ```text
//!              ┌────────── http-0, http-1 ── reads ──▶ Picture ◀── publishes ──┐
//!   clients ──▶│                └─ changes ─▶ request-n ─▶ Inbox ─▶ supervisor ─┤
//!              └ event streams ◀──────────── woken ────────────────┘  │ effects  │
//!                                                                     ▼          ▼
//!                             launch ─▶ exits      worker-io      log-follow   relay ──▶ queen
//!                               └──────── events ──────┴──▶ Inbox
//! ```
//!
//! Start: listener bound → processes → relay → supervisor → HTTP → the line on stdout. The cascade goes
//! backwards: the supervisor ends when no worker is left, which closes the channels of `launch`, `exits` and
//! `worker-io`; the relay says its last word; HTTP, which answered until now, is drained. Every thread is
//! joined.

use std::fs::DirBuilder;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use log::{error, info, warn};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::api::{Heartbeat, HiveStatus};
use crate::capacity::inspect::Inspector;
use crate::capacity::ledger::Ledger;
use crate::clock::rfc3339;
use crate::config::{Config, Orphans};
use crate::devices::{self, OomKills, Picture as DevicesPicture};
use crate::health::Conditions;
use crate::http::handlers::{self, Api};
use crate::http::metrics::Requests;
use crate::http::{Options, Request, Server, StreamWaker, Ticket, Timeouts};
use crate::id::{Backend, Entropy, Pgid, SystemEntropy};
use crate::kinds::provision::Provisions;
use crate::kinds::shelf::Shelf;
use crate::kinds::{CommandLine, Values, find_program};
use crate::latest::Latest;
use crate::lifecycle::event::{Event, LaunchJob};
use crate::lifecycle::picture::{Entry, Picture};
use crate::lifecycle::supervisor::{self, Inbox};
use crate::lifecycle::{Fleet, Policy};
use crate::limits::{DESCRIPTORS_BESIDE_CONNECTIONS, HUB_QUEUE_MAX, HUB_THREADS};
use crate::models::catalog::Catalog;
use crate::models::downloads::Downloads;
use crate::models::hub::Hub;
use crate::net::Cut;
use crate::notify::{self, Manager};
use crate::process::adopt;
use crate::process::guard::{self, Guardian};
use crate::process::lock::{HiveLock, LockError};
use crate::process::log::Logs;
use crate::process::record::Records;
use crate::process::{Jobs, Owner, exits, follow, keep, launch, versions, worker_io};
use crate::relay::{Relay, RelayConfig};
use crate::reload::Reload;
use crate::sys;
use crate::thread::Joined;

use address::{Urls, bind, resolve};
use adoption::Adoption;
use hands::{Hands, Teller};
use threads::Threads;

mod address;
mod adoption;
mod hands;
mod threads;

/// How a hive ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Nothing is left behind.
    Clean,
    /// So many workers go on, for the next hive.
    Kept(usize),
    /// So many workers did not die of SIGKILL in time.
    WithLeftovers(usize),
}

/// Runs a hive until its end is over.
///
/// `announce` is called with the hive's URL once it listens.
///
/// # Errors
/// If it cannot start: the address is taken, a folder cannot be made, the system has no threads to give.
pub fn serve(config: Config, announce: impl FnOnce(&str)) -> io::Result<Ended> {
    let started_at = SystemTime::now();
    sys::close_inherited_on_exec()?;
    sys::keep_dead_children()?;
    sys::become_subreaper()?;
    let descriptors = sys::allow_descriptors(config.max_connections + DESCRIPTORS_BESIDE_CONNECTIONS);
    let listener = bind(config.bind)?;
    let address = listener.local_addr()?;
    let worker_host = resolve(&config.worker_host)?;
    let mut entropy = SystemEntropy::new();
    let in_data_dir = |error| named("--data-dir", &error);
    let (lock, owner) = occupy(&config.data_dir, &mut entropy).map_err(in_data_dir)?;
    let records = Records::of(&config.data_dir);
    let conditions = Conditions::new()?;
    let orphans = adopt::take_over(&records, &owner, config.orphans, &conditions).map_err(in_data_dir)?;
    let grace = if config.orphans == Orphans::Kill { Duration::ZERO } else { config.shutdown_timeout };
    let guardian = Guardian::new(guard::Config {
        program: config.probe.program.clone(),
        data_dir: config.data_dir.clone(),
        owner: owner.clone(),
        hive: lock.mark().to_owned(),
        orphan_timeout: config.orphan_timeout,
        grace,
    });
    let boot_id = uuid::Uuid::new_v4().to_string();
    let logs = Arc::new(Logs::new(config.data_dir.join("logs")));
    let (unused, unused_installs) = unbounded(); // one for each install, at the end of its use
    let named = config.sources.programs.iter().map(|(kind, _)| kind.clone());
    let shelf = Arc::new(Shelf::open(&config.data_dir, config.kinds, named, Some(unused)));
    let token = Arc::new(Latest::new(config.token));
    let urls = Urls::new(config.advertise_url.as_deref(), address, &config.host_name);
    let picture = Arc::new(Picture::new(config.hive_id.clone(), boot_id.clone(), &worker_host.to_string()));
    let (inbox, outbox) = supervisor::inbox();
    let tell = |inbox: &Inbox| {
        let inbox = inbox.clone();
        move |event| inbox.tell(event)
    };

    // Each thread stands before the handle that keeps it going, so that an early return drops that first.
    let oom_kills = OomKills::new(&config.probe.procfs, &config.probe.sysfs);
    let (exits_thread, exits) = exits::start(owner.clone(), guardian.clone(), oom_kills, tell(&inbox))?;
    let (adoption, adopted, records_of_adopted) =
        Adoption::begin(orphans, worker_host, &shelf, &guardian, exits.clone());
    let (worker_io_thread, worker_io) =
        worker_io::start(worker_io::Config { host: worker_host, logs: Arc::clone(&logs) }, tell(&inbox))?;
    let hub_cut = Cut::default();
    let render = render(worker_host, urls.for_workers, hub_cut.clone());
    let (keep_thread, keeper) = keep::start(Arc::clone(&logs), config.data_dir.clone(), conditions.clone())?;
    let launch_config = launch::Config {
        host: worker_host,
        owner,
        logs: Arc::clone(&logs),
        keeper: keeper.clone(),
        conditions: conditions.clone(),
        records,
        guardian: guardian.clone(),
        descriptors,
    };
    let (launch_thread, launch) =
        launch::start(launch_config, records_of_adopted, render, exits.clone(), tell(&inbox))?;
    let (follow_thread, followers) = follow::start(Arc::clone(&logs))?;
    // Before the first look: an older picture than the one that it has, it does not take.
    let ledger = Ledger::new(config.rules.clone(), DevicesPicture::unknown());
    let groups = {
        let picture = Arc::clone(&picture);
        move || {
            let snapshot = picture.snapshot();
            snapshot.workers.iter().filter_map(|entry| entry.worker.pid.map(Pgid)).collect()
        }
    };
    let looked = tell(&inbox);
    let (versions_thread, versions) = versions::start(config.probe.program.clone())?;
    let seen = {
        let (conditions, rules, picture) = (conditions.clone(), config.rules.clone(), Arc::clone(&picture));
        move |devices: Arc<DevicesPicture>| {
            let uses_gpu = |entry: &Arc<Entry>| entry.worker.backend != Backend::Cpu;
            conditions.judge_devices(&devices, &rules, picture.snapshot().workers.iter().any(uses_gpu));
            looked(Event::Devices(devices));
        }
    };
    let (devices_thread, devices) = devices::start(config.probe, groups, seen)?;
    devices.refresh(); // drivers take their time at first

    let streams = Arc::new(OnceLock::<StreamWaker>::new());
    let hub = Hub::new(config.hub);
    let teller =
        Teller { inbox: inbox.clone(), picture: Arc::clone(&picture), streams: Arc::clone(&streams) };
    let (download_threads, downloads) = Downloads::start(&config.model_dir, hub.clone(), Arc::new(teller))?;

    let provisioned = Arc::clone(&streams);
    let changed = move || {
        if let Some(streams) = provisioned.get() {
            streams.wake();
        }
    };
    let artifacts = config.artifacts.map(Hub::new);
    let (provision_thread, provisions) =
        Provisions::start(Arc::clone(&shelf), unused_installs, artifacts, changed)?;

    let policy = Policy {
        heartbeat_timeout: config.worker_heartbeat_timeout,
        ready_timeout: config.ready_timeout,
        grace: config.shutdown_timeout,
        idle_timeout: config.idle_timeout,
        restart_limit: config.restart_limit,
    };
    let mut fleet = Fleet::new(policy, config.worker_ports.clone(), ledger, Box::new(entropy));
    // Before the queen, or anybody else, is told what there is.
    let first = supervisor::take_over(&mut fleet, &picture, adopted);

    let heartbeat = heartbeat(config.hive_id.clone(), urls.for_queen.clone(), boot_id.clone(), &picture);
    let relay = config
        .queen
        .map(|queen| {
            let url = queen.url.parse().map_err(|error| io::Error::other(format!("--queen-url: {error}")))?;
            let config = RelayConfig {
                url,
                token: queen.token,
                interval: config.heartbeat_interval,
                conditions: conditions.clone(),
            };
            Relay::start(config, Box::new(heartbeat.clone()))
        })
        .transpose()?
        .map(Arc::new);

    // All that would end the process by default: it must not end over living workers.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGCHLD])?;
    let reaper = exits.clone();
    let manager = Manager::of(&|name| std::env::var_os(name)).map(Arc::new);
    let (manager_changed, changed) = bounded(1);
    let hands = Hands {
        launch,
        exits,
        worker_io,
        followers: followers.clone(),
        keeper: keeper.clone(),
        devices: devices.clone(),
        downloads: downloads.clone(),
        provisions: provisions.clone(),
        hub_cut: hub_cut.clone(),
        worker_host,
        relay: relay.clone(),
        manager_changed,
        streams: Arc::clone(&streams),
    };
    let ended = Arc::new(OnceLock::new());
    let supervisor = {
        let (picture, ended, signals) = (Arc::clone(&picture), Arc::clone(&ended), signals.handle());
        // For a start that fails, which leaves what it has adopted: after its end nobody listens any more.
        let inbox = inbox.clone();
        let stop = move || {
            let _ = inbox.keep();
        };
        let body = move || {
            let _ = ended.set(supervisor::run(fleet, first, &outbox, &picture, hands));
            signals.close();
        };
        Joined::spawn_vital("supervisor", stop, body)?
    };

    let reload = Reload {
        sources: config.sources,
        shelf: Arc::clone(&shelf),
        token: Arc::clone(&token),
        relay: relay.clone(),
    };
    let (hub_desk, hub_requests) = bounded(HUB_QUEUE_MAX);
    let about = handlers::About {
        hive_id: config.hive_id.clone(),
        url: urls.for_queen.clone(),
        boot_id: boot_id.clone(),
        started_at,
    };
    let api = Api {
        about,
        requests: Requests::default(),
        spawns: handlers::Spawns::default(),
        posts: relay.as_ref().map(|relay| Arc::clone(relay.posts())),
        token,
        entry: handlers::Entry::default(),
        picture: Arc::clone(&picture),
        inbox: inbox.clone(),
        kinds: Arc::clone(shelf.kinds()),
        versions,
        catalog: Catalog::new(&config.model_dir),
        model_dir: config.model_dir,
        hub,
        hub_cut: hub_cut.clone(),
        hub_desk: hub_desk.clone(),
        downloads,
        provisions,
        inspector: Inspector::default(),
        devices,
        rules: config.rules,
        conditions,
        logs,
        keeper,
        worker_ports: config.worker_ports,
        followers,
        streams: Arc::clone(&streams),
    };
    let options = Options {
        threads: config.threads,
        max_connections: sys::connections_within_limits(config.max_connections),
        timeouts: Timeouts::default(),
    };
    let api = Arc::new(api);
    let hub_threads = hub_threads(&api, &hub_requests, &hub_desk, &hub_cut)?;
    let server = Server::start(listener, options, api)?;
    let _ = streams.set(server.stream_waker());
    let notify = manager.clone().map(|manager| {
        let picture = Arc::clone(&picture);
        let subject = notify::Subject { picture, inbox: inbox.clone(), pulse: server.pulse(), changed };
        notify::start(manager, subject)
    });
    let notify = notify.transpose()?;
    adoption.succeed();
    lock.settle();
    info!("hive listens url={} hive_id={} boot_id={boot_id}", urls.own, config.hive_id);
    announce(&urls.own);

    obey(&mut signals, &inbox, &reaper, manager.as_deref(), &reload);
    drop(reload);
    supervisor.join();
    drop(notify);
    let how = ended.get().copied().unwrap_or(supervisor::Ended::Stopped { left: 0 });
    if let supervisor::Ended::Kept { .. } = how {
        // Before the watchers of the workers end.
        guardian.keep();
        reaper.send(exits::Job::LetGo);
    }
    drop(reaper);
    if let Some(relay) = relay.and_then(Arc::into_inner) {
        relay.finish(match how {
            supervisor::Ended::Stopped { .. } => {
                Heartbeat { status: HiveStatus::Stopped, workers: Vec::new(), ..heartbeat() }
            }
            supervisor::Ended::Kept { .. } => heartbeat(),
        });
    }
    let threads = Threads {
        launch: launch_thread,
        exits: exits_thread,
        worker_io: worker_io_thread,
        keep: keep_thread,
        others: hub_threads
            .into_iter()
            .chain(download_threads)
            .chain([provision_thread, follow_thread, versions_thread, devices_thread])
            .collect(),
    };
    let ended = match how {
        supervisor::Ended::Stopped { left: left @ 1.. } => {
            error!("the cascade is over, and workers are left count={left}");
            threads.end_over_the_living(server);
            return Ok(Ended::WithLeftovers(left));
        }
        supervisor::Ended::Stopped { left: 0 } => Ended::Clean,
        supervisor::Ended::Kept { workers } => Ended::Kept(workers),
    };
    threads.end(server);
    info!("hive ends");
    drop(lock);
    Ok(ended)
}

/// Makes the data directory if there is none, and sees to it that this hive is the only one in it.
fn occupy(data_dir: &Path, entropy: &mut dyn Entropy) -> io::Result<(HiveLock, Owner)> {
    DirBuilder::new().recursive(true).mode(0o700).create(data_dir)?;
    let lock = HiveLock::take(data_dir).map_err(|error| match error {
        LockError::Held(pid) => {
            let pid = pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
            io::Error::other(format!("another hive{pid} uses it"))
        }
        LockError::Io(error) => error,
    })?;
    Ok((lock, Owner::of(data_dir, entropy)?))
}

/// Does what signals ask for, until the supervisor has ended.
fn obey(
    signals: &mut Signals,
    inbox: &Inbox,
    reaper: &Jobs<exits::Job>,
    manager: Option<&Manager>,
    reload: &Reload,
) {
    let mut force = false;
    for signal in signals.forever() {
        if signal == SIGCHLD {
            reaper.send(exits::Job::Reap);
            continue;
        }
        let name = signal_hook::low_level::signal_name(signal).unwrap_or("?");
        if signal == SIGHUP {
            match manager {
                Some(manager) => manager.reloads(|| reload.again()),
                None => reload.again(),
            }
            continue;
        }
        if signal == SIGUSR1 {
            warn!("signal without a meaning ignored signal={name}");
            continue;
        }
        if signal == SIGUSR2 {
            match inbox.keep() {
                Ok(Some(_)) => info!("signal taken signal={name}: the hive ends, its workers go on"),
                Ok(None) => warn!("signal ignored signal={name}: the workers are being stopped"),
                Err(_) => break,
            }
            continue;
        }
        info!("signal taken signal={name} cascade={}", if force { "kill" } else { "stop" });
        if inbox.cascade(force).is_err() {
            break;
        }
        force = true;
    }
}

/// Threads for requests that have to ask the hub. They end when one is sent nothing, which it passes on.
fn hub_threads(
    api: &Arc<Api>,
    requests: &Receiver<Option<(Request, Ticket)>>,
    desk: &Sender<Option<(Request, Ticket)>>,
    cut: &Cut,
) -> io::Result<Vec<Joined>> {
    let start = |n| {
        let (api, requests, desk, cut) = (Arc::clone(api), requests.clone(), desk.clone(), cut.clone());
        let pass_on = desk.clone();
        let stop = move || {
            cut.cut(); // so that there is room at the desk soon
            let _ = desk.send(None);
        };
        let desk = pass_on;
        let body = move || {
            while let Ok(Some((request, ticket))) = requests.recv() {
                let cid = ticket.correlation();
                // The ticket is dropped in the unwinding, which answers 500.
                let answer = AssertUnwindSafe(|| api.on_hub_thread(request, ticket));
                if catch_unwind(answer).is_err() {
                    error!("request handler panicked cid={cid}");
                }
            }
            let _ = desk.try_send(None);
        };
        Joined::spawn(&format!("hub-{n}"), stop, body)
    };
    (0..HUB_THREADS).map(start).collect()
}

fn heartbeat(
    hive_id: String,
    url: String,
    boot_id: String,
    picture: &Arc<Picture>,
) -> impl Fn() -> Heartbeat + Clone + Send + 'static {
    let picture = Arc::clone(picture);
    move || {
        let snapshot = picture.snapshot();
        Heartbeat {
            hive_id: hive_id.clone(),
            timestamp: rfc3339(SystemTime::now()),
            status: snapshot.status,
            url: url.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: boot_id.clone(),
            sequence: 0,
            workers: snapshot.heartbeat_workers(),
        }
    }
}

fn render(host: IpAddr, hive_url: String, cut: Cut) -> launch::Render {
    let host = host.to_string();
    Box::new(move |job: &LaunchJob| {
        let plan = &job.plan;
        let program = find_program(&plan.kind).ok_or("the kind's program is not on this machine any more")?;
        if let Some(install) = &plan.kind.install {
            install.verify(&cut).map_err(|damaged| {
                if cut.is_cut() {
                    return "the hive ends";
                }
                error!("an installed kind is damaged kind={} file={damaged:?}", plan.kind.name);
                "what is installed of its kind is damaged; provision it again"
            })?;
        }
        let line = plan.kind.command(&Values {
            worker_id: &job.id,
            model_path: &plan.model_path,
            model_ref: &plan.model_ref,
            placement: &job.placement,
            host: &host,
            port: job.port,
            hive_url: &hive_url,
            ctx: plan.ctx,
            parallel: plan.parallel,
            extra_args: &plan.extra_args,
        });
        Ok(CommandLine { program, ..line })
    })
}

fn named(flag: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{flag}: {error}"))
}
