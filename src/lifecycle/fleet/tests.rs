use super::super::simulation::{Seeded, ledger, order};
use super::*;

#[test]
fn the_key_of_a_worker_that_is_forgotten_stands_for_the_next_one() {
    let policy = Policy {
        heartbeat_timeout: Duration::from_secs(90),
        ready_timeout: Duration::from_secs(300),
        grace: Duration::from_secs(30),
        idle_timeout: None,
        restart_limit: 0,
    };
    let mut fleet = Fleet::new(policy, 9000..=9003, ledger(), Box::new(Seeded::new(1)));
    let now = Instant::now();
    let spawn = |fleet: &mut Fleet, key: &str| {
        let (admitted, _) = fleet.spawn(order(false, None), Some(key.to_owned()), now, &mut |_| true);
        admitted.unwrap().view.id
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
