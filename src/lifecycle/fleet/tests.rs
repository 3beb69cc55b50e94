use std::time::SystemTime;

use super::super::simulation::{Seeded, ledger, order};
use super::*;
use crate::id::Pgid;
use crate::lifecycle::event::{ExitStatus, Key, Order, Plan, Signal};

fn fleet() -> Fleet {
    let policy = Policy {
        heartbeat_timeout: Duration::from_secs(90),
        ready_timeout: Duration::from_secs(300),
        grace: Duration::from_secs(30),
        idle_timeout: None,
        restart_limit: 0,
    };
    Fleet::new(policy, 9000..=9003, ledger(), Box::new(Seeded::new(1)))
}

#[test]
fn a_hive_that_slept_through_its_cascade_kills_and_sees_the_death_before_it_ends() {
    let mut fleet = fleet();
    let mut now = Instant::now();
    let id = fleet.spawn(order(true, None), now, &mut |_| true).0.unwrap().view.id;
    fleet.on(Event::Launched { id: id.clone(), run: Run(1), pgid: Pgid(100) }, now);
    fleet.cascade(false, now);
    now += Duration::from_secs(3600);
    let effects = fleet.on(Event::Slept(Duration::from_secs(3600)), now);
    let kill = Effect::Signal { id: id.clone(), run: Run(1), signal: Signal::Kill };
    assert_eq!(effects, [kill]);
    assert!(!fleet.is_done(now), "it dies in this moment");
    now += Duration::from_secs(1);
    fleet.on(
        Event::Exited {
            id: id.clone(),
            run: Run(1),
            status: ExitStatus::Signal(9),
            port_lost: false,
            oom: false,
        },
        now,
    );
    fleet.on(Event::GroupDead { id: id.clone(), run: Run(1) }, now);
    assert!(!fleet.is_done(now), "its log is being read");
    now += Duration::from_secs(3600);
    fleet.on(Event::Slept(Duration::from_secs(3600)), now);
    assert!(!fleet.is_done(now), "the answer may be there already");
    fleet.on(Event::LogTail { id, run: Run(1), lines: Vec::new(), reason: None }, now);
    assert!(fleet.is_done(now) && fleet.is_empty());
}

#[test]
fn a_worker_that_crashes_while_its_hive_keeps_them_all_is_not_started_again() {
    let policy = Policy { restart_limit: 5, ..fleet().policy };
    let mut fleet = Fleet::new(policy, 9000..=9003, ledger(), Box::new(Seeded::new(1)));
    let (mut now, run) = (Instant::now(), Run(1));
    let mut spawn = || fleet.spawn(order(true, None), now, &mut |_| true).0.unwrap().view.id;
    let (first, second) = (spawn(), spawn());
    fleet.on(Event::Launched { id: first.clone(), run, pgid: Pgid(100) }, now);
    fleet.keep(now);
    let status = ExitStatus::Signal(9);
    fleet.on(Event::Exited { id: first.clone(), run, status, port_lost: false, oom: false }, now);
    fleet.on(Event::GroupDead { id: first, run }, now);
    assert_eq!(fleet.len(), 1, "nothing is left of it, and it is not among the kept");
    now += Duration::from_secs(3);
    assert!(!fleet.is_done(now), "the other one is being launched");
    assert!(
        !fleet.on(Event::Tick, now).iter().any(|effect| matches!(effect, Effect::Disk(DiskJob::Launch(_))))
    );
    fleet.on(Event::LaunchFailed { id: second, run, error: LaunchError::PortTaken }, now);
    assert!(fleet.is_done(now) && fleet.is_empty());
}

#[test]
fn whoever_waits_for_the_place_of_another_waits_on_after_the_hive_slept() {
    const HOUR: Duration = Duration::from_secs(3600);
    let mut fleet = fleet();
    let mut now = Instant::now();
    let spawn = |fleet: &mut Fleet, now| {
        let mut order = order(false, None); // two of this size are too many
        order.choices[0].need.bytes = 60;
        order.make_room = true;
        fleet.spawn(order, now, &mut |_| true).0.unwrap().view.id
    };
    let (first, run) = (spawn(&mut fleet, now), Run(1));
    fleet.on(Event::Launched { id: first.clone(), run, pgid: Pgid(100) }, now);
    fleet.ready(&first, Some(run), None, now).0.unwrap();
    let second = spawn(&mut fleet, now);
    now += HOUR;
    let effects = fleet.on(Event::Slept(HOUR), now);
    assert_eq!(effects, [Effect::Signal { id: first.clone(), run, signal: Signal::Kill }]);
    fleet.on(
        Event::Exited { id: first.clone(), run, status: ExitStatus::Signal(9), port_lost: false, oom: false },
        now,
    );
    fleet.on(Event::GroupDead { id: first.clone(), run }, now);
    let effects = fleet.on(Event::LogTail { id: first, run, lines: Vec::new(), reason: None }, now);
    let launched = |effect: &Effect| matches!(effect, Effect::Disk(DiskJob::Launch(job)) if job.id == second);
    assert!(effects.iter().any(launched), "{effects:?}");
}

#[test]
fn the_key_of_a_worker_that_is_forgotten_stands_for_the_next_one() {
    let mut fleet = fleet();
    let now = Instant::now();
    let spawn = |fleet: &mut Fleet, key: &str| {
        let order = order(false, None);
        let key = Some(Key { text: key.to_owned(), at: SystemTime::UNIX_EPOCH });
        let order = Order { plan: Plan { key, ..order.plan }, ..order };
        fleet.spawn(order, now, &mut |_| true).0.unwrap().view.id
    };
    let first = spawn(&mut fleet, "key");
    let fails = |fleet: &mut Fleet, id: WorkerId| {
        let error = LaunchError::Failed("no".to_owned());
        fleet.on(Event::LaunchFailed { id, run: Run(1), error }, now);
    };
    fails(&mut fleet, first.clone());
    for n in 0..GONE_MAX {
        let id = spawn(&mut fleet, &n.to_string());
        fails(&mut fleet, id);
    }
    assert!(fleet.view(&first).is_none(), "too many have ended since");
    let second = spawn(&mut fleet, "key");
    assert_ne!(second, first);
    assert_eq!(spawn(&mut fleet, "key"), second, "one worker for one key");
}
