//! What is said to the client: answers, refusals, the beginning of a stream.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use log::warn;

use super::streaming::{Permit, Streaming};
use super::{Connection, Desk, Phase, Serving};
use crate::http::conn::{Framing, Refusal};
use crate::http::encode::{self, After};
use crate::http::slots::Token;
use crate::http::{Answer, ApiError, Code, Errand, Request, Source, Ticket, Verdict, ticket};

impl Connection {
    /// A head is whole; `bare` if nothing behind it has arrived yet.
    pub(super) fn on_head(&mut self, framing: &Framing, bare: bool, desk: &mut Desk) {
        let Some((head, _)) = self.parser.head() else { return };
        self.asked = Some((desk.service.endpoint(head), Instant::now()));
        match desk.service.on_head(head, &mut self.peer) {
            Ok(()) if framing.expects_continue && framing.has_body && bare => {
                desk.output.extend_from_slice(encode::CONTINUE);
            }
            Ok(()) => {}
            Err(answer) if framing.has_body => self.last_answer(&answer, framing, desk),
            Err(answer) => {
                self.parser.skip();
                self.answer(&answer, framing, desk);
            }
        }
    }

    /// A request is whole.
    pub(super) fn on_request(&mut self, request: Request, framing: &Framing, token: Token, desk: &mut Desk) {
        match desk.service.on_loop(request) {
            Verdict::Answer(answer) => self.answer(&answer, framing, desk),
            Verdict::Stream(source) => self.begin_stream(source, framing, token, desk),
            Verdict::Thread(request, Errand { name, within, is_quick }) => {
                let is_late = Arc::<AtomicBool>::default();
                let ticket =
                    Ticket::new(desk.inbox.clone(), token, framing.correlation, Arc::clone(&is_late));
                match desk.pool.submit(request, is_quick, ticket) {
                    Ok(()) => {
                        let until = desk.now + within;
                        let framing = *framing;
                        self.phase = Phase::Serving(Serving { framing, name, within, until, is_late });
                    }
                    Err(ticket) => {
                        ticket.forget();
                        let answer = overloaded("too many requests wait").into_answer(framing.correlation);
                        self.answer(&answer, framing, desk);
                    }
                }
            }
        }
    }

    /// Answers the request under way; the next one may follow.
    pub(super) fn answer(&mut self, answer: &Answer, framing: &Framing, desk: &mut Desk) {
        let after = after(framing, desk);
        self.served |= answer.status < 400;
        self.count(answer.status, desk);
        encode::answer(&mut desk.output, answer, framing, after, &desk.date);
        self.phase = match after {
            After::Keep => Phase::Reading,
            // What was sent and is not read would turn the close into a reset.
            After::Close => Phase::Closing { linger: self.readable },
        };
    }

    /// Answers with events that are pulled from `source`.
    pub(super) fn begin_stream(
        &mut self,
        source: Box<dyn Source>,
        framing: &Framing,
        token: Token,
        desk: &mut Desk,
    ) {
        // Without chunks, only the end of the connection ends a stream.
        let after = if framing.http_1_1 { after(framing, desk) } else { After::Close };
        if framing.head_only {
            self.count(200, desk);
            encode::stream_head(&mut desk.output, framing, after, &desk.date);
            self.phase = match after {
                After::Keep => Phase::Reading,
                After::Close => Phase::Closing { linger: self.readable },
            };
            return;
        }
        let Some(permit) = Permit::take(&desk.streams_open) else {
            let answer = overloaded("too many event streams").into_answer(framing.correlation);
            return self.answer(&answer, framing, desk);
        };
        self.count(200, desk);
        encode::stream_head(&mut desk.output, framing, after, &desk.date);
        let mut streaming = Streaming::new(source, framing.http_1_1, after, permit);
        if desk.draining {
            streaming.end();
        }
        self.phase = Phase::Streaming(Box::new(streaming));
        desk.streams.push(token);
    }

    /// Refuses bytes that are no request.
    pub(super) fn refuse(&mut self, refusal: Refusal, desk: &mut Desk) {
        let Refusal { error, correlation, head_only } = refusal;
        let framing = Framing { head_only, ..Framing::unknown(correlation) };
        self.last_answer(&error.into_answer(correlation), &framing, desk);
    }

    /// Refuses a request whose rest has not come in time.
    pub(super) fn refuse_slow(&mut self, desk: &mut Desk) {
        let framing = match self.parser.head() {
            Some((_, framing)) => *framing,
            None => Framing::unknown(desk.correlations.fresh()),
        };
        let error = ApiError::new(Code::RequestTimeout, "the request came too slowly");
        self.last_answer(&error.into_answer(framing.correlation), &framing, desk);
    }

    /// Answers a request whose ticket has not come back. When it does, the connection is gone or ending: it finds
    /// nobody.
    pub(super) fn answer_late(&mut self, framing: &Framing, name: &str, desk: &mut Desk) {
        if let Some(others) = desk.late_lines.next(desk.now) {
            let cid = framing.correlation;
            warn!("request not answered in time route={name} others={others} cid={cid}");
        }
        self.last_answer(&ticket::late().into_answer(framing.correlation), framing, desk);
    }

    /// Refuses a connection for which there is no room.
    pub(super) fn refuse_surplus(&mut self, desk: &mut Desk) {
        let framing = Framing::unknown(desk.correlations.fresh());
        let answer = overloaded("too many connections").into_answer(framing.correlation);
        self.last_answer(&answer, &framing, desk);
    }

    /// Answers, although the client may still be sending what nobody will read.
    fn last_answer(&mut self, answer: &Answer, framing: &Framing, desk: &mut Desk) {
        self.count(answer.status, desk);
        encode::answer(&mut desk.output, answer, framing, After::Close, &desk.date);
        self.phase = Phase::Closing { linger: true };
    }

    /// Tells the service that the request under way is answered.
    fn count(&mut self, status: u16, desk: &Desk) {
        let (endpoint, took) =
            self.asked.take().map_or_else(Default::default, |(endpoint, at)| (endpoint, at.elapsed()));
        desk.service.answered(endpoint, status, took);
    }
}

fn after(framing: &Framing, desk: &Desk) -> After {
    if framing.keep_alive && !desk.draining { After::Keep } else { After::Close }
}

fn overloaded(message: &str) -> ApiError {
    ApiError::new(Code::Overloaded, message).with_header("Retry-After", "1")
}
