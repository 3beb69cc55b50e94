use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::devices::{Cpu, Driver};

const GIB: u64 = 1 << 30;
const GPU0: Device = Device::Gpu(0);
const GPU1: Device = Device::Gpu(1);

fn gpu(number: u16, total_gib: u64, free_gib: u64) -> Gpu {
    Gpu {
        device: Device::Gpu(number),
        name: "model".to_owned(),
        uuid: Some(format!("GPU-{number}")),
        backend: Backend::Cuda,
        total_bytes: total_gib * GIB,
        free_bytes: free_gib * GIB,
        temperature_c: None,
        utilization_percent: None,
        driver: Driver::Nvml,
        lost: false,
        shares_memory: false,
        used_by: BTreeMap::new(),
        knows_users: true,
    }
}

/// 16 GiB of memory, 12 of them available, and these GPUs.
fn picture(gpus: Vec<Gpu>) -> Picture {
    let cpu = Cpu { cores: 8, total_bytes: 16 * GIB, available_bytes: 12 * GIB, used_by: BTreeMap::new() };
    let now = Instant::now();
    Picture { taken_at: now, gpus_taken_at: now, cpu, gpus }
}

fn ledger(gpus: Vec<Gpu>) -> Ledger {
    Ledger::new(Rules::default(), Arc::new(picture(gpus)))
}

fn choice(devices: &[Device], gib: u64) -> Choice {
    let backend = if devices == [Device::Cpu] { Backend::Cpu } else { Backend::Cuda };
    let need = Need { bytes: gib * GIB, host_bytes: 0, breakdown: None };
    Choice { backend, devices: devices.to_vec(), need, split: Split::ByFree }
}

fn placement(device: Device, gib: u64) -> Placement {
    let share =
        Share { device, visible_as: String::new(), backend: Backend::Cuda, total_bytes: 0, bytes: gib * GIB };
    Placement { backend: Backend::Cuda, shares: vec![share], host_bytes: 0 }
}

fn id(name: &str) -> WorkerId {
    name.parse().unwrap()
}

fn claim<'a>(worker: &'a WorkerId, placement: &'a Placement, group: u32) -> Claim<'a> {
    let long_ago = Instant::now().checked_sub(Duration::from_secs(9));
    Claim { worker, placement, group: Some(Pgid(group)), serves_since: long_ago, idle_since: None }
}

fn gib(ledger: &Ledger, device: Device, claims: &[Claim<'_>]) -> Option<u64> {
    ledger.available(device, claims).map(|bytes| bytes / GIB)
}

#[test]
fn use_counts_against_the_promise_and_foreign_use_against_the_device() {
    let (worker, promise) = (id("a"), placement(GPU0, 10));
    // Of 24 GiB a stranger has 4, the worker 6 of its 10.
    let mut card = gpu(0, 24, 14);
    card.used_by.insert(Pgid(7), 6 * GIB);
    let ledger = ledger(vec![card]);
    assert_eq!(gib(&ledger, GPU0, &[claim(&worker, &promise, 7)]), Some(10));
    assert_eq!(gib(&ledger, GPU0, &[claim(&worker, &promise, 8)]), Some(4), "nothing taken yet");
    assert_eq!(gib(&ledger, GPU0, &[Claim { group: None, ..claim(&worker, &promise, 7) }]), Some(4));
    let small = placement(GPU0, 5);
    assert_eq!(gib(&ledger, GPU0, &[claim(&worker, &small, 7)]), Some(14), "more taken than promised");
}

#[test]
fn where_use_is_not_told_a_serving_worker_has_taken_its_promise() {
    let (worker, promise) = (id("a"), placement(GPU0, 10));
    let ledger = ledger(vec![Gpu { knows_users: false, ..gpu(0, 24, 14) }]);
    let serving = claim(&worker, &promise, 7);
    assert_eq!(gib(&ledger, GPU0, &[serving]), Some(14));
    assert_eq!(gib(&ledger, GPU0, &[Claim { serves_since: None, ..serving }]), Some(4));
    let later = Some(Instant::now() + Duration::from_secs(1));
    let just_now = Claim { serves_since: later, ..serving };
    assert_eq!(gib(&ledger, GPU0, &[just_now]), Some(4), "the picture is older than what it has taken");
}

#[test]
fn what_is_reserved_or_hidden_is_not_given() {
    let rules = Rules {
        reserve: BTreeMap::from([(GPU0, 4 * GIB), (Device::Cpu, 15 * GIB)]),
        hidden: BTreeSet::from([GPU1]),
    };
    let mig = Gpu { device: Device::Mig { gpu: 1, instance: 3 }, ..gpu(1, 10, 10) };
    // Others use 3 of the 4 GiB that are reserved for them: those are not counted twice.
    let ledger = Ledger::new(rules, Arc::new(picture(vec![gpu(0, 24, 21), gpu(1, 24, 24), mig])));
    assert_eq!(gib(&ledger, GPU0, &[]), Some(20));
    assert_eq!(gib(&ledger, Device::Cpu, &[]), Some(1));
    assert_eq!(ledger.devices().collect::<Vec<_>>(), [Device::Cpu, GPU0]);
    for hidden in [GPU1, Device::Mig { gpu: 1, instance: 3 }, Device::Gpu(9)] {
        assert_eq!(ledger.available(hidden, &[]), None);
        let refused = ledger.place(&[choice(&[hidden], 1)], true, &[]);
        assert_eq!(refused, Err(Refused::NoDevice(vec![hidden])));
    }
}

#[test]
fn without_a_wish_the_gpu_with_most_room_is_taken_and_then_the_cpu() {
    let ledger = ledger(vec![gpu(0, 24, 8), gpu(1, 24, 20)]);
    let all = |gib| [choice(&[Device::Cpu], gib), choice(&[GPU0], gib), choice(&[GPU1], gib)];
    let device = |gib| ledger.place(&all(gib), false, &[]).map(|placed| placed.placement.device());
    assert_eq!(device(8).as_deref(), Ok("gpu1"));
    let few = ledger.place(&[choice(&[Device::Cpu], 12), choice(&[GPU0], 12)], false, &[]);
    assert_eq!(few.map(|placed| placed.placement.device()).as_deref(), Ok("cpu"));
    let best = Refused::NoRoom { choice: choice(&[GPU1], 21), available_bytes: 20 * GIB, host_bytes: None };
    assert_eq!(device(21), Err(best));
}

#[test]
fn a_worker_on_several_gpus_has_a_share_of_each_as_they_have_room() {
    let both = ledger(vec![gpu(0, 24, 8), gpu(1, 24, 24)]);
    let placed = both.place(&[choice(&[GPU0, GPU1], 28)], false, &[]).unwrap();
    let shares: Vec<u64> = placed.placement.shares.iter().map(|share| share.bytes / GIB).collect();
    assert_eq!((shares, placed.placement.bytes()), (vec![7, 21], 28 * GIB));
    assert!(both.place(&[choice(&[GPU0, GPU1], 33)], false, &[]).is_err());
    // Engines split by what is free, whoever it was promised to.
    let (worker, promise) = (id("a"), placement(GPU1, 20));
    let loading = Claim { group: None, serves_since: None, ..claim(&worker, &promise, 7) };
    assert!(both.place(&[choice(&[GPU0, GPU1], 6)], false, &[loading]).is_err(), "4 to 5 on a card with 4");
    assert!(both.place(&[choice(&[GPU0, GPU1], 5)], false, &[loading]).is_ok());
    let one = ledger(vec![gpu(0, 24, 8), Gpu { lost: true, ..gpu(1, 24, 24) }]);
    assert!(one.place(&[choice(&[GPU0, GPU1], 4)], false, &[]).is_err(), "the other one is lost");
}

#[test]
fn who_takes_one_fraction_of_all_its_cards_is_promised_that_of_each() {
    let even = |gib| Choice { split: Split::Even, ..choice(&[GPU0, GPU1], gib) };
    // Half of the smaller card holds one half of the model; half of the larger one must be free too.
    let both = ledger(vec![gpu(0, 24, 13), gpu(1, 16, 16)]);
    let placed = both.place(&[even(16)], false, &[]).unwrap().placement;
    let shares: Vec<u64> = placed.shares.iter().map(|share| share.bytes / GIB).collect();
    assert_eq!((shares, placed.fraction()), (vec![12, 8], 0.5));
    let refused = both.place(&[even(18)], false, &[]);
    let Err(Refused::NoRoom { available_bytes, host_bytes: None, .. }) = refused else {
        panic!("{refused:?}")
    };
    // 13 of 24 GiB, and as much of two cards of 16.
    assert_eq!(available_bytes, 13 * GIB * 32 / 24);
    let need = Need { bytes: available_bytes, host_bytes: 0, breakdown: None };
    assert!(both.place(&[Choice { need, ..even(0) }], false, &[]).is_ok(), "what is said to fit fits");
    let alone = Choice { split: Split::Even, ..choice(&[GPU1], 16) };
    assert_eq!(both.place(&[alone], false, &[]).unwrap().placement.bytes(), 16 * GIB);
    let lost = ledger(vec![gpu(0, 24, 24), Gpu { lost: true, ..gpu(1, 24, 24) }]);
    assert!(lost.place(&[even(4)], false, &[]).is_err());
}

/// On `devices`, with so much kept in host memory.
fn keeping(devices: &[Device], gib: u64, host_gib: u64) -> Choice {
    let need = Need { bytes: gib * GIB, host_bytes: host_gib * GIB, breakdown: None };
    Choice { need, ..choice(devices, gib) }
}

#[test]
fn what_a_worker_on_a_gpu_keeps_in_host_memory_is_promised_of_the_cpu() {
    let ledger = ledger(vec![gpu(0, 24, 24)]);
    let placed = ledger.place(&[keeping(&[GPU0], 8, 5)], false, &[]).unwrap().placement;
    assert_eq!((placed.bytes(), placed.device_bytes()), (13 * GIB, 8 * GIB));
    assert_eq!((placed.device().as_str(), placed.shares.len()), ("gpu0", 1));
    let worker = id("a");
    let loading = Claim { group: None, ..claim(&worker, &placed, 7) };
    assert_eq!(gib(&ledger, GPU0, &[loading]), Some(16));
    assert_eq!(gib(&ledger, Device::Cpu, &[loading]), Some(7), "of 12");
    let next = keeping(&[GPU0], 8, 8);
    let short = Refused::NoRoom { choice: next.clone(), available_bytes: 7 * GIB, host_bytes: Some(8 * GIB) };
    assert_eq!(ledger.place(std::slice::from_ref(&next), false, &[loading]), Err(short));
    assert!(ledger.place(&[keeping(&[GPU0], 16, 7)], false, &[loading]).is_ok());
    // Who holds host memory only makes room for it too.
    let idle = Claim { idle_since: Some(Instant::now()), ..loading };
    assert_eq!(ledger.place(&[next], true, &[idle]).map(|placed| placed.leave), Ok(vec![worker.clone()]));
}

#[test]
fn host_memory_is_counted_once_where_it_is_the_gpus_too() {
    let ledger = ledger(vec![Gpu { shares_memory: true, ..gpu(0, 16, 14) }]);
    assert!(ledger.place(&[keeping(&[GPU0], 8, 4)], false, &[]).is_ok(), "12 are available to both");
    assert!(ledger.place(&[keeping(&[GPU0], 8, 5)], false, &[]).is_err());
}

#[test]
fn idle_workers_leave_least_recently_used_first_and_no_more_than_it_takes() {
    let now = Instant::now();
    let names = ["a", "b", "c", "pinned", "busy"].map(id);
    let promises = [2, 6, 6, 4, 4].map(|gib| placement(GPU0, gib));
    let mut card = gpu(0, 24, 2);
    let mut claims = Vec::new();
    for (at, (name, promise)) in names.iter().zip(&promises).enumerate() {
        card.used_by.insert(Pgid(at as u32), promise.bytes());
        let idle = (at < 3).then(|| now + Duration::from_secs(at as u64));
        claims.push(Claim { idle_since: idle, ..claim(name, promise, at as u32) });
    }
    let ledger = ledger(vec![card]);
    let leave = |gib: u64| {
        let placed = ledger.place(&[choice(&[GPU0], gib)], true, &claims)?;
        Ok::<_, Refused>(placed.leave.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    };
    assert_eq!(leave(2).as_deref(), Ok(""), "there is room");
    assert_eq!(leave(4).as_deref(), Ok("a"));
    assert_eq!(leave(8).as_deref(), Ok("b"), "a alone does not help, and is not needed beside b");
    assert_eq!(leave(16).as_deref(), Ok("a b c"));
    assert!(leave(17).is_err(), "the pinned and the busy stay");
    assert!(ledger.place(&[choice(&[GPU0], 4)], false, &claims).is_err(), "nobody was to leave");
}

#[test]
fn shared_memory_is_one() {
    let ledger = ledger(vec![Gpu { shares_memory: true, ..gpu(0, 16, 14) }]);
    let (on_gpu, on_cpu) = (id("g"), id("c"));
    let (gpu_promise, cpu_promise) = (placement(GPU0, 5), placement(Device::Cpu, 4));
    let claims = [(&on_gpu, &gpu_promise), (&on_cpu, &cpu_promise)]
        .map(|(worker, promise)| Claim { group: None, ..claim(worker, promise, 0) });
    assert_eq!(gib(&ledger, GPU0, &claims), Some(3), "12 are available to both");
    assert_eq!(gib(&ledger, Device::Cpu, &claims), Some(3));
}

#[test]
fn memory_of_the_dead_is_waited_for_as_long_as_it_may_take() {
    let now = Instant::now();
    let (worker, promise) = (id("a"), Arc::new(placement(GPU0, 10)));
    let mut card = gpu(0, 24, 14);
    card.used_by.insert(Pgid(7), 8 * GIB);
    card.used_by.insert(Pgid(8), 2 * GIB);
    let dies = || {
        let mut picture = picture(vec![card.clone()]);
        picture.cpu.used_by = [7, 8, 9].map(|group| (Pgid(group), 0)).into();
        let mut ledger = Ledger::new(Rules::default(), Arc::new(picture));
        let seen = |group| ledger.seen(&claim(&worker, &promise, group));
        assert_eq!(seen(9), Some(vec![]), "nothing used is free at once");
        assert_eq!(seen(10), None, "the picture does not show it");
        let seen = seen(7).unwrap();
        ledger.wait_for(worker.clone(), seen, now);
        ledger.release(&worker, &promise);
        ledger
    };
    let later = |free_gib: u64, other_gib: u64| {
        let mut card = gpu(0, 24, free_gib);
        card.used_by.insert(Pgid(8), other_gib * GIB);
        let at = now + Duration::from_secs(1);
        Arc::new(Picture { taken_at: at, gpus_taken_at: at, ..picture(vec![card]) })
    };
    let mut back = dies();
    back.look(later(14, 2));
    assert!(back.settles(&worker), "the driver has not given it back");
    back.look(later(17, 7));
    assert!(!back.settles(&worker), "it has, and another one has taken 5 GiB since");

    let mut never = dies();
    assert_eq!(never.next_deadline(), Some(now + MEMORY_RETURN_WAIT));
    never.expire(now + MEMORY_RETURN_WAIT);
    assert!(!never.is_settling(), "it is not waited for for ever");
}

proptest! {
    #[test]
    fn in_no_order_of_spawns_takings_and_deaths_is_more_promised_than_there_is(
        steps in prop::collection::vec((0u8..4, 0usize..8, 1u64..12), 1..80),
        foreign in 0u64..8,
        reserve in 0u64..6,
    ) {
        let (total, names) = (24 * GIB, ["a", "b", "c", "d", "e", "f", "g", "h"].map(id));
        let rules = Rules { reserve: BTreeMap::from([(GPU0, reserve * GIB)]), ..Rules::default() };
        let picture_of = |used: &BTreeMap<Pgid, u64>| {
            let ours: u64 = used.values().sum();
            let free_bytes = total - foreign * GIB - ours;
            Arc::new(picture(vec![Gpu { free_bytes, used_by: used.clone(), ..gpu(0, 24, 0) }]))
        };
        let mut used: BTreeMap<Pgid, u64> = BTreeMap::new();
        let mut ledger = Ledger::new(rules, picture_of(&used));
        let mut workers: BTreeMap<usize, Placement> = BTreeMap::new();
        for (what, who, gib) in steps {
            match what {
                0 if !workers.contains_key(&who) => {
                    let claims: Vec<Claim<'_>> = workers
                        .iter()
                        .map(|(at, promise)| claim(&names[*at], promise, *at as u32))
                        .collect();
                    if let Ok(placed) = ledger.place(&[choice(&[GPU0], gib)], false, &claims) {
                        workers.insert(who, placed.placement);
                    }
                }
                // It takes more of what it was promised; the next picture shows it.
                1 => if let Some(promise) = workers.get(&who) {
                    let taken = used.entry(Pgid(who as u32)).or_default();
                    *taken = (*taken + gib * GIB).min(promise.bytes());
                },
                2 => {
                    workers.remove(&who);
                    used.remove(&Pgid(who as u32));
                }
                _ => ledger.look(picture_of(&used)),
            }
            let promised: u64 = workers.values().map(Placement::bytes).sum();
            prop_assert!(promised + foreign * GIB <= total, "{promised} promised");
            prop_assert!(workers.is_empty() || promised + reserve * GIB <= total);
        }
    }
}

#[test]
fn a_card_is_known_by_its_uuid_when_the_next_hive_counts_otherwise() {
    let mut before = placement(GPU1, 8);
    before.shares[0].visible_as = "GPU-1".to_owned();
    assert_eq!(ledger(vec![gpu(0, 24, 24), gpu(1, 24, 16)]).renamed(&before), None);
    let ledger = ledger(vec![Gpu { device: GPU0, ..gpu(1, 24, 16) }, Gpu { device: GPU1, ..gpu(2, 24, 24) }]);
    let now = ledger.renamed(&before).expect("the first card has fallen off the bus");
    assert_eq!((now.shares[0].device, now.shares[0].bytes), (GPU0, 8 * GIB));
    let gone =
        Placement { shares: vec![Share { visible_as: "GPU-0".to_owned(), ..now.shares[0].clone() }], ..now };
    assert_eq!(ledger.renamed(&gone), None, "what is not there is not taken for another one");
}
