//! A thread that owns connections. It waits for sockets, for its inbox and for the nearest deadline, and
//! for nothing else: with no connection it sleeps until there is one.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use log::{error, warn};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;

use super::Service;
use super::connection::{Connection, Desk, Fate};
use super::listener::Listener;
use super::pool::Pool;
use super::server::{Shared, Timeouts};
use super::slots::{Slots, Token};
use super::ticket::{Caller, Inbox, Mail};
use crate::limits;

/// What the listener's events carry; no connection has these tokens.
const LISTENER: u64 = u64::MAX;
const INBOX: u64 = u64::MAX - 1;

/// Events taken at once.
const EVENTS: usize = 256;

pub(super) struct EventLoop {
    epoll: OwnedFd,
    /// `None` once the end has been announced.
    listener: Option<Arc<Listener>>,
    shared: Arc<Shared>,
    /// Of the loop that gets connections for which this one has no room.
    neighbour: Arc<Inbox>,
    connections: Slots<Connection>,
    /// Those among them that are being refused for their number.
    surplus: usize,
    desk: Desk,
    /// Connections that did not come to an end in their turn.
    again: Vec<Token>,
    /// When the deadlines are looked at next, and when they were last.
    sweep_at: Option<Instant>,
    swept_at: Instant,
    /// What came while this loop stood still is looked at first.
    stood_still: bool,
    /// Accepting goes on then.
    paused_until: Option<Instant>,
    warned_at: Option<Instant>,
    /// Connections are cut then.
    stop_at: Option<Instant>,
}

impl EventLoop {
    /// A loop with its own inbox and its neighbour's.
    pub(super) fn new(
        listener: Arc<Listener>,
        shared: Arc<Shared>,
        [inbox, neighbour]: [Arc<Inbox>; 2],
        timeouts: Timeouts,
        service: Arc<dyn Service>,
        pool: Pool,
    ) -> std::io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, inbox.bell(), EventData::new_u64(INBOX), EventFlags::IN)?;
        let streams_open = Arc::clone(&shared.streams);
        let this = Self {
            epoll,
            listener: Some(listener),
            shared,
            neighbour,
            connections: Slots::new(),
            surplus: 0,
            desk: Desk::new(service, pool, inbox, timeouts, streams_open),
            again: Vec::new(),
            sweep_at: None,
            swept_at: Instant::now(),
            stood_still: false,
            paused_until: None,
            warned_at: None,
            stop_at: None,
        };
        this.watch_listener()?;
        Ok(this)
    }

    /// Runs until the end has been announced and every connection is closed or cut.
    pub(super) fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        while !self.is_done() {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), self.timeout().as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => {
                    error!("an event loop cannot wait error={e}");
                    std::process::abort();
                }
            }
            self.desk.now = Instant::now();
            self.desk.date.refresh();
            let (mut mail, mut callers) = (false, false);
            for event in &events {
                let flags = event.flags;
                match event.data.u64() {
                    INBOX => mail = true,
                    LISTENER => callers = true,
                    token => self.serve(Token(token), |c, token, desk| c.on_event(flags, token, desk)),
                }
            }
            let mut again = std::mem::take(&mut self.again);
            again.sort_unstable();
            again.dedup(); // an event may have come to the same end
            for token in again {
                self.serve(token, Connection::go_on);
            }
            if mail {
                let mail = self.desk.inbox.take();
                self.read(mail);
            }
            self.sweep(events.len() == EVENTS);
            if self.paused_until.is_some_and(|at| at <= self.desk.now) {
                self.resume();
            } else if callers {
                self.accept();
            }
        }
        self.desk.inbox.close();
        let counted = self.connections.len() - self.surplus;
        self.shared.connections.fetch_sub(counted, Ordering::Relaxed);
    }

    fn is_done(&self) -> bool {
        self.stop_at.is_some_and(|at| self.connections.len() == 0 || at <= self.desk.now)
    }

    /// How long nothing needs to be done unless something happens; `None` is for ever.
    fn timeout(&self) -> Option<Timespec> {
        let nearest = [self.sweep_at, self.paused_until, self.stop_at].into_iter().flatten().min();
        let wait = if self.again.is_empty() {
            nearest?.saturating_duration_since(self.desk.now)
        } else {
            Duration::ZERO
        };
        Some(Timespec::try_from(wait).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 }))
    }

    /// Gives the connection of `token` a turn; nothing happens if it is gone.
    fn serve(&mut self, token: Token, turn: impl FnOnce(&mut Connection, Token, &mut Desk) -> Fate) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        match turn(connection, token, &mut self.desk) {
            Fate::Gone => self.close(token),
            fate => {
                let deadline = connection.deadline();
                if fate == Fate::Again {
                    self.again.push(token);
                }
                self.note(deadline);
            }
        }
    }

    fn close(&mut self, token: Token) {
        let Some(connection) = self.connections.remove(token) else { return };
        if connection.is_surplus() {
            self.surplus -= 1;
        } else {
            self.shared.connections.fetch_sub(1, Ordering::Relaxed);
        }
        drop(connection);
        if self.paused_until.is_some() {
            self.paused_until = Some(self.desk.now); // a descriptor is free
        }
    }

    // ---- Callers ----

    fn watch_listener(&self) -> rustix::io::Result<()> {
        let Some(listener) = &self.listener else { return Ok(()) };
        // Level-triggered: who is not accepted in this turn is seen in the next, by whichever loop is free.
        let flags = EventFlags::IN | EventFlags::EXCLUSIVE;
        epoll::add(&self.epoll, listener, EventData::new_u64(LISTENER), flags)
    }

    fn accept(&mut self) {
        for _ in 0..limits::ACCEPTS_PER_TURN {
            let Some(listener) = &self.listener else { return };
            match listener.accept() {
                // Where there is little room the others are waited for until this one has had a turn: what it came
                // with may be a whole request.
                Ok(caller) => {
                    if !self.welcome(caller) {
                        return;
                    }
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
                    if self.close_surplus()
                        || self.make_room(Some(self.desk.now))
                        || self.make_room(None) => {}
                // What befell the caller before we came to it.
                Err(Errno::INTR | Errno::CONNABORTED | Errno::PROTO | Errno::PERM) => {}
                Err(e) => return self.pause(e),
            }
        }
    }

    /// Takes a connection in; beyond the limit in place of another one, or else sends it on to the next loop, or
    /// refuses it. Tells whether there was room.
    fn welcome(&mut self, caller: Caller) -> bool {
        if self.listener.is_none() {
            return false;
        }
        let before = self.shared.connections.fetch_add(1, Ordering::Relaxed);
        let is_roomy = before < self.shared.connections_max;
        // Whoever was served a moment ago gives way only where no loop has another.
        let by = (caller.tried == 0).then_some(self.desk.now);
        if is_roomy || self.make_room(by) {
            self.take_in(Connection::new(caller.socket, caller.peer, &self.desk));
            return is_roomy;
        }
        self.shared.connections.fetch_sub(1, Ordering::Relaxed);
        if caller.tried < limits::EVENT_LOOPS {
            let caller = Caller { tried: caller.tried + 1, ..caller };
            self.neighbour.put(|mail| mail.strangers.push(caller));
        } else if self.surplus < self.shared.refusing_max {
            self.surplus += 1;
            let connection = Connection::surplus(caller.socket, caller.peer, &mut self.desk);
            self.take_in(connection);
        }
        false
    }

    fn take_in(&mut self, connection: Connection) {
        let deadline = connection.deadline();
        let token = self.connections.insert(connection);
        let all = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let watched = self.connections.get_mut(token).map(|c| {
            let data = EventData::new_u64(token.0);
            epoll::add(&self.epoll, c.socket(), data, all)
        });
        match watched {
            Some(Ok(())) => self.note(deadline),
            _ => self.close(token),
        }
    }

    /// Closes the connection that has been expendable longest, and was so `by` then, if there is one.
    fn make_room(&mut self, by: Option<Instant>) -> bool {
        let timeouts = &self.desk.timeouts;
        let counted = self.connections.iter().filter(|(_, c)| !c.is_surplus());
        let expendable = counted.filter_map(|(token, c)| Some((c.expendable_since(timeouts)?, token)));
        let Some((since, token)) = expendable.min_by_key(|(since, _)| *since) else { return false };
        if by.is_some_and(|by| since > by) {
            return false;
        }
        self.close(token);
        true
    }

    /// Closes a connection that is being refused, if there is one.
    fn close_surplus(&mut self) -> bool {
        if self.surplus == 0 {
            return false;
        }
        let surplus = self.connections.iter().find(|(_, c)| c.is_surplus()).map(|(token, _)| token);
        surplus.map(|token| self.close(token)).is_some()
    }

    /// Leaves callers waiting for a while: asked again at once, the system would say the same.
    fn pause(&mut self, cause: Errno) {
        let Some(listener) = &self.listener else { return };
        let _ = epoll::delete(&self.epoll, listener); // it is watched, so this cannot fail
        self.paused_until = Some(self.desk.now + limits::ACCEPT_PAUSE);
        if self.warned_at.is_none_or(|at| self.desk.now - at >= limits::WARN_INTERVAL) {
            self.warned_at = Some(self.desk.now);
            warn!("connections cannot be accepted for the moment error={cause}");
        }
    }

    fn resume(&mut self) {
        self.paused_until = None;
        match self.watch_listener() {
            Ok(()) => self.accept(),
            Err(e) => {
                // Watching needs kernel memory, as accepting does.
                self.paused_until = Some(self.desk.now + limits::ACCEPT_PAUSE);
                warn!("the listener cannot be watched for the moment error={e}");
            }
        }
    }

    // ---- Mail and time ----

    fn read(&mut self, mail: Mail) {
        // It may have been announced and this loop not told yet: who is answered now hears of it.
        self.desk.draining |= self.shared.stop.get().is_some();
        for (token, reply) in mail.replies {
            self.serve(token, |c, token, desk| c.on_reply(reply, token, desk));
        }
        for stranger in mail.strangers {
            self.welcome(stranger);
        }
        if mail.streams_woken {
            self.wake_streams();
        }
        if let Some(asked) = mail.asked {
            // There is room for one answer of each loop.
            let _ = asked.try_send(());
        }
        if mail.stop {
            self.stop();
        }
    }

    fn wake_streams(&mut self) {
        let mut streams = std::mem::take(&mut self.desk.streams);
        streams.sort_unstable();
        streams.dedup();
        streams.retain(|&token| self.connections.get_mut(token).is_some_and(Connection::on_wake));
        for &token in &streams {
            self.serve(token, Connection::go_on);
        }
        self.desk.streams.append(&mut streams);
    }

    fn stop(&mut self) {
        self.stop_at = self.shared.stop.get().copied();
        self.desk.draining = true;
        if let Some(listener) = self.listener.take() {
            let _ = epoll::delete(&self.epoll, &listener); // fails while accepting pauses: all the same
        }
        self.paused_until = None;
        let tokens: Vec<Token> = self.connections.iter().map(|(token, _)| token).collect();
        for token in tokens {
            self.serve(token, Connection::on_drain);
        }
    }

    /// Plans to look at the deadlines when `deadline` is due, but not too often.
    fn note(&mut self, deadline: Option<Instant>) {
        if let Some(deadline) = deadline {
            let at = deadline.max(self.swept_at + limits::SWEEP_INTERVAL);
            self.sweep_at = Some(self.sweep_at.map_or(at, |planned| planned.min(at)));
        }
    }

    /// `more`: there may be events that were not taken yet.
    fn sweep(&mut self, more: bool) {
        let now = self.desk.now;
        let Some(at) = self.sweep_at.filter(|at| *at <= now) else { return };
        // A process that was stopped is not its clients' fault: what they sent meanwhile counts before what is
        // overdue, and is there without waiting.
        let first = !std::mem::replace(&mut self.stood_still, now > at + limits::SLEPT_AFTER);
        if self.stood_still && first {
            self.connections.values_mut().for_each(|connection| connection.on_stood_still(now));
        }
        if self.stood_still && (first || more) {
            return;
        }
        self.stood_still = false;
        (self.sweep_at, self.swept_at) = (None, now);
        let deadlines = self.connections.iter().filter_map(|(token, c)| Some((c.deadline()?, token)));
        let (due, later): (Vec<_>, Vec<_>) = deadlines.partition(|(at, _)| *at <= now);
        self.note(later.iter().map(|(at, _)| *at).min());
        for (_, token) in due {
            self.serve(token, Connection::on_deadline);
        }
        // Who opens streams and leaves again while nothing changes must not make this grow.
        if self.desk.streams.len() > 2 * limits::STREAMS_MAX {
            let connections = &mut self.connections;
            self.desk.streams.retain(|&token| connections.get_mut(token).is_some_and(|c| c.is_streaming()));
        }
    }
}
