//! What the hub does badly, to whom, and how often.

use std::str::FromStr;

/// Where a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Every request.
    Any,
    /// What there is of a repository: `/api/models/org/repo`.
    Info,
    /// The list of its files: `/api/models/org/repo/tree/…`.
    Tree,
    /// A file on the hub itself: `/org/repo/resolve/…`.
    Resolve,
    /// The CDN.
    Cdn,
    /// Wherever the bytes of a file come from: the CDN for a large one, else the hub.
    Bytes,
}

/// What goes wrong. Counts are bytes of the answer's body unless they say otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The connection ends after so many.
    Cut(u64),
    /// The connection is reset after so many.
    Reset(u64),
    /// Nothing comes after so many, and the connection stays.
    Stall(u64),
    /// The connection is closed without an answer.
    HangUp,
    /// The byte at this offset of the file is another one.
    Corrupt(u64),
    /// So many bytes a second on each connection.
    Rate(u64),
    /// This status and a page of HTML.
    Status(u16),
    /// 429, and to come back after so many seconds.
    TooMany(u64),
    /// One of the hub's own refusals, with its `X-Error-Code`.
    Refuse(HubCode),
    /// 200 and HTML, as from a portal that wants a login.
    Html,
    /// `Content-Length` is off by so much; the body is not.
    LengthOff(i64),
    /// Both ends of `Content-Range` are off by so much; the body is not.
    RangeOff(i64),
    /// The length of the file in `Content-Range` is off by so much.
    TotalOff(i64),
    /// The lengths in the list of files are off by so much.
    SizeOff(i64),
    /// Ranges are ignored: 200 and everything.
    NoRanges,
    /// No length is told: `Transfer-Encoding: chunked`.
    Chunked,
    /// The body goes on for ever with zeros, without a length.
    Endless,
    /// 302 to where the request came.
    RedirectLoop,
    /// 302 to this URL; headers that tell of a file stay.
    RedirectTo(String),
    /// A location of the CDN is good for so many requests, and 403 from then on.
    ExpireAfter(u64),
}

/// The hub's own refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HubCode {
    /// 401 without a token, else 404.
    RepoNotFound,
    /// 401 without a token, else 403.
    GatedRepo,
    /// 404
    RevisionNotFound,
    /// 404
    EntryNotFound,
}

/// How often a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// One request.
    Once,
    /// So many.
    Count(u32),
    /// All.
    Always,
}

/// A fault as it is set; `FromStr` reads `[PLACE:]FAULT[=VALUE][*COUNT][@PATH]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultRule {
    /// Where.
    pub place: Place,
    /// The end of `org/repo/path/of/file`, or of `org/repo` where a request is for no file.
    pub path: String,
    /// What.
    pub fault: Fault,
    /// How often.
    pub times: Times,
}

/// How rules are written, for `--help`.
pub const HELP: &str = "\
A fault is [PLACE:]NAME[=VALUE][*COUNT][@PATH], PATH being the end of org/repo/path/of/file:
  cut=BYTES reset=BYTES stall=BYTES  the body ends so, after so many bytes
  corrupt=OFFSET                     the byte at this offset of the file is another one
  rate=BYTES                         so many a second on each connection
  length-off=N range-off=N total-off=N size-off=N
                                     a header's number is off by so much
  no-ranges chunked endless          the body comes so
  expire-after=N                     a location is good for so many requests
  hang-up                            closed without an answer
  status=CODE too-many=SECONDS       with HTML; 429 with Retry-After
  repo-not-found gated-repo revision-not-found entry-not-found
                                     the hub's own refusals
  html redirect-loop redirect=URL    what has no business there
PLACE is any, info, tree, resolve, cdn or bytes; by default bytes for those up to expire-after, any for the
others. COUNT requests suffer it, by default all.
";

impl HubCode {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::RepoNotFound => "RepoNotFound",
            Self::GatedRepo => "GatedRepo",
            Self::RevisionNotFound => "RevisionNotFound",
            Self::EntryNotFound => "EntryNotFound",
        }
    }

    pub(super) fn status(self, with_token: bool) -> u16 {
        match self {
            Self::RepoNotFound | Self::GatedRepo if !with_token => 401,
            Self::GatedRepo => 403,
            _ => 404,
        }
    }
}

impl Place {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "any" => Self::Any,
            "info" => Self::Info,
            "tree" => Self::Tree,
            "resolve" => Self::Resolve,
            "cdn" => Self::Cdn,
            "bytes" => Self::Bytes,
            _ => return None,
        })
    }
}

impl Fault {
    /// Whether it is of the way in which a body comes.
    fn is_of_body(&self) -> bool {
        !matches!(
            self,
            Self::HangUp
                | Self::Status(_)
                | Self::TooMany(_)
                | Self::Refuse(_)
                | Self::Html
                | Self::RedirectLoop
                | Self::RedirectTo(_)
        )
    }

    fn parse(name: &str, value: Option<&str>) -> Option<Self> {
        let number = || value.and_then(|value| value.parse::<u64>().ok());
        let offset = || value.and_then(|value| value.parse::<i64>().ok());
        let alone = |fault| value.is_none().then_some(fault);
        match name {
            "cut" => number().map(Self::Cut),
            "reset" => number().map(Self::Reset),
            "stall" => number().map(Self::Stall),
            "corrupt" => number().map(Self::Corrupt),
            "rate" => number().filter(|rate| *rate > 0).map(Self::Rate),
            "length-off" => offset().map(Self::LengthOff),
            "range-off" => offset().map(Self::RangeOff),
            "total-off" => offset().map(Self::TotalOff),
            "size-off" => offset().map(Self::SizeOff),
            "no-ranges" => alone(Self::NoRanges),
            "chunked" => alone(Self::Chunked),
            "endless" => alone(Self::Endless),
            "expire-after" => number().map(Self::ExpireAfter),
            "hang-up" => alone(Self::HangUp),
            "status" => {
                let code = value.and_then(|value| value.parse().ok());
                code.filter(|code| (200..600).contains(code)).map(Self::Status)
            }
            "too-many" => number().map(Self::TooMany),
            "repo-not-found" => alone(Self::Refuse(HubCode::RepoNotFound)),
            "gated-repo" => alone(Self::Refuse(HubCode::GatedRepo)),
            "revision-not-found" => alone(Self::Refuse(HubCode::RevisionNotFound)),
            "entry-not-found" => alone(Self::Refuse(HubCode::EntryNotFound)),
            "html" => alone(Self::Html),
            "redirect-loop" => alone(Self::RedirectLoop),
            "redirect" => value.map(|url| Self::RedirectTo(url.to_owned())),
            _ => None,
        }
    }
}

impl FromStr for FaultRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("fault {text:?} is unknown, or its value is wrong");
        let (rest, path) = text.rsplit_once('@').unwrap_or((text, ""));
        let (rest, times) = match rest.rsplit_once('*') {
            Some((rest, count)) => (rest, Times::Count(count.parse().map_err(|_| wrong())?)),
            None => (rest, Times::Always),
        };
        let placed = rest.split_once(':').and_then(|(place, rest)| Some((Place::parse(place)?, rest)));
        let (place, rest) = placed.map_or((None, rest), |(place, rest)| (Some(place), rest));
        let (name, value) = rest.split_once('=').map_or((rest, None), |(name, value)| (name, Some(value)));
        let fault = Fault::parse(name, value).ok_or_else(wrong)?;
        let place = place.unwrap_or(if fault.is_of_body() { Place::Bytes } else { Place::Any });
        Ok(Self { place, path: path.to_owned(), fault, times })
    }
}

/// What a rule must know of a request and the answer that it would get.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    /// Where it came: no [`Place::Any`], no [`Place::Bytes`].
    pub(super) place: Option<Place>,
    /// `org/repo/path/of/file` or `org/repo`.
    pub(super) subject: &'a str,
    /// Whether the answer's body is that of a file.
    pub(super) is_bytes: bool,
    /// Which bytes the body has.
    pub(super) range: std::ops::Range<u64>,
    /// Whether they are a part of it.
    pub(super) is_partial: bool,
    /// How often its location was used, this time included.
    pub(super) uses: u64,
}

impl Asked<'_> {
    fn is_at(&self, place: Place) -> bool {
        match place {
            Place::Any => true,
            Place::Bytes => self.is_bytes,
            place => self.place == Some(place),
        }
    }

    fn has_room_for(&self, fault: &Fault) -> bool {
        match fault {
            Fault::Cut(after) | Fault::Reset(after) | Fault::Stall(after) => {
                self.range.end - self.range.start > *after
            }
            Fault::Corrupt(at) => self.range.contains(at),
            Fault::RangeOff(_) | Fault::TotalOff(_) | Fault::NoRanges => self.is_partial,
            Fault::ExpireAfter(count) => self.uses > *count,
            _ => true,
        }
    }
}

/// The faults that are set.
#[derive(Debug, Default)]
pub(super) struct Rules(Vec<FaultRule>);

impl Rules {
    pub(super) fn push(&mut self, rule: FaultRule) {
        self.0.push(rule);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// What strikes a request; counts it.
    pub(super) fn strike(&mut self, asked: &Asked) -> Vec<Fault> {
        let mut struck = Vec::new();
        self.0.retain_mut(|rule| {
            let strikes = asked.is_at(rule.place)
                && asked.subject.ends_with(&rule.path)
                && asked.has_room_for(&rule.fault)
                && rule.times != Times::Count(0);
            if strikes {
                struck.push(rule.fault.clone());
                rule.times = match rule.times {
                    Times::Once => Times::Count(0),
                    Times::Count(left) => Times::Count(left - 1),
                    Times::Always => Times::Always,
                };
            }
            rule.times != Times::Count(0)
        });
        struck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(subject: &str, range: std::ops::Range<u64>) -> Asked<'_> {
        Asked { place: Some(Place::Cdn), subject, is_bytes: true, range, is_partial: true, uses: 1 }
    }

    #[test]
    fn rules_are_read() {
        let rule = |place, fault, times, path: &str| FaultRule { place, path: path.to_owned(), fault, times };
        for (text, wanted) in [
            ("cut=1000", rule(Place::Bytes, Fault::Cut(1000), Times::Always, "")),
            ("status=500*2", rule(Place::Any, Fault::Status(500), Times::Count(2), "")),
            ("tree:html@o/r", rule(Place::Tree, Fault::Html, Times::Always, "o/r")),
            (
                "cdn:redirect=http://h:1/x*1@m.gguf",
                rule(Place::Cdn, Fault::RedirectTo("http://h:1/x".into()), Times::Count(1), "m.gguf"),
            ),
            ("length-off=-5", rule(Place::Bytes, Fault::LengthOff(-5), Times::Always, "")),
        ] {
            assert_eq!(text.parse(), Ok(wanted), "{text}");
        }
        for wrong in ["", "cut", "cut=x", "html=1", "status=99", "cut=1*x", "rate=0", "moon:html"] {
            assert!(wrong.parse::<FaultRule>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_name_of_the_help_is_read() {
        let names = HELP.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
        let names = names.flat_map(|line| line.trim_start().split("  ").next().unwrap_or("").split(' '));
        let mut count = 0;
        for name in names {
            let text = name.split_once('=').map_or(name.to_owned(), |(name, _)| format!("{name}=200"));
            assert!(text.parse::<FaultRule>().is_ok(), "{name}");
            count += 1;
        }
        assert_eq!(count, 23);
    }

    #[test]
    fn a_rule_waits_for_what_it_can_strike_and_is_spent() {
        let mut rules = Rules::default();
        rules.push("cut=100*2@r/m.gguf".parse().unwrap());
        assert_eq!(rules.strike(&asked("o/r/m.gguf", 0..100)), []);
        assert_eq!(rules.strike(&asked("o/r/other", 0..101)), []);
        for _ in 0..2 {
            assert_eq!(rules.strike(&asked("o/r/m.gguf", 50..151)), [Fault::Cut(100)]);
        }
        assert_eq!(rules.strike(&asked("o/r/m.gguf", 0..101)), []);
        rules.push("corrupt=100".parse().unwrap());
        assert_eq!(rules.strike(&asked("", 0..100)), []);
        assert_eq!(rules.strike(&asked("", 100..101)), [Fault::Corrupt(100)]);
        rules.clear();
        assert_eq!(rules.strike(&asked("", 100..101)), []);
    }
}
