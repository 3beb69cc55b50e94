//! Names and numbers that cannot be wrong once they exist: parsed at the edge, trusted everywhere else.

use std::fmt;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

/// Where random bytes come from: the system in the daemon, a seeded source in a simulation.
pub trait Entropy: Send {
    /// Fills `bytes` with random ones.
    fn fill(&mut self, bytes: &mut [u8]);
}

/// The operating system's random numbers.
#[derive(Debug)]
pub struct SystemEntropy(ring::rand::SystemRandom);

impl SystemEntropy {
    /// A source that needs no set-up.
    pub fn new() -> Self {
        Self(ring::rand::SystemRandom::new())
    }
}

impl Default for SystemEntropy {
    fn default() -> Self {
        Self::new()
    }
}

impl Entropy for SystemEntropy {
    fn fill(&mut self, bytes: &mut [u8]) {
        use ring::rand::SecureRandom as _;
        self.0.fill(bytes).expect("the kernel has random numbers: without them no token is safe");
    }
}

/// Lower-case hexadecimal digits of `bytes`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)] as char, DIGITS[usize::from(b & 15)] as char])
        .collect()
}

/// The bytes of so many hex digits, in whatever case.
pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks();
    let mut bytes = [0; N];
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

/// The name of a download: `d-` and 16 lower-case hexadecimal digits. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DownloadId(Arc<str>);

impl DownloadId {
    /// The name with these digits.
    pub(crate) fn of(digits: &str) -> Self {
        Self(format!("d-{digits}").into())
    }

    /// The name that `text` is, if it is one.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("d-")?;
        let good = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        good.then(|| Self(text.into()))
    }
}

impl fmt::Display for DownloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a worker: `[A-Za-z0-9-]{1,64}`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkerId(Arc<str>);

impl WorkerId {
    /// A new random name: `w-` and 12 hexadecimal digits.
    pub fn random(entropy: &mut dyn Entropy) -> Self {
        let mut bytes = [0; 6];
        entropy.fill(&mut bytes);
        Self(format!("w-{}", hex(&bytes)).into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that is no [`WorkerId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAWorkerId;

impl fmt::Display for NotAWorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a worker id has 1 to 64 characters of A-Z, a-z, 0-9 and -")
    }
}

impl std::error::Error for NotAWorkerId {}

impl JsonSchema for WorkerId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "WorkerId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[A-Za-z0-9-]{1,64}$" })
    }
}

impl std::str::FromStr for WorkerId {
    type Err = NotAWorkerId;
    fn from_str(s: &str) -> Result<Self, NotAWorkerId> {
        let good = (1..=64).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if good { Ok(Self(s.into())) } else { Err(NotAWorkerId) }
    }
}

impl TryFrom<String> for WorkerId {
    type Error = NotAWorkerId;
    fn try_from(s: String) -> Result<Self, NotAWorkerId> {
        s.parse()
    }
}

impl From<WorkerId> for String {
    fn from(id: WorkerId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which launch of a worker is meant; the first is 1. An answer that names an older run is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run(pub u32);

impl Run {
    /// The run after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A worker's process id, which is also the id of its process group: the worker is started as the
/// leader of a group of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pgid(pub u32);

impl fmt::Display for Pgid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A bearer token. Never printed: `Display` and `Debug` show `token:` and six digits of its SHA-256.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<str>);

impl Token {
    /// A new token of 256 random bits.
    pub fn random(entropy: &mut dyn Entropy) -> Self {
        let mut bytes = [0; 32];
        entropy.fill(&mut bytes);
        Self(hex(&bytes).into())
    }

    /// A token that somebody chose: 1 to 1024 visible ASCII characters.
    pub fn parse(text: &str) -> Option<Self> {
        let good = (1..=1024).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        good.then(|| Self(text.into()))
    }

    /// The secret itself, for an `Authorization` header or a worker's environment.
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// Whether `other` is this token, in a time that does not tell where they differ.
    pub fn matches(&self, other: &str) -> bool {
        self.0.as_bytes().ct_eq(other.as_bytes()).into()
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = ring::digest::digest(&ring::digest::SHA256, self.0.as_bytes());
        write!(f, "token:{}", hex(&digest.as_ref()[..3]))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What computes: the backend of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The processor.
    Cpu,
    /// NVIDIA.
    Cuda,
    /// AMD.
    Rocm,
    /// Any GPU by Vulkan.
    Vulkan,
    /// Apple.
    Metal,
}

impl Backend {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Cpu, Self::Cuda, Self::Rocm, Self::Vulkan, Self::Metal];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Rocm => "rocm",
            Self::Vulkan => "vulkan",
            Self::Metal => "metal",
        }
    }
}

impl std::str::FromStr for Backend {
    type Err = ();
    fn from_str(s: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|b| b.as_str() == s).ok_or(())
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a worker computes: `cpu`, `gpuN`, or `gpuN:M` for a part of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// The processor and its memory.
    Cpu,
    /// A GPU by its number in the order of PCI bus ids.
    Gpu(u16),
    /// A MIG instance of a GPU.
    Mig {
        /// The GPU's number.
        gpu: u16,
        /// The GPU instance id, as the driver counts.
        instance: u16,
    },
}

/// A number without sign, spaces or leading zeros.
fn plain_number(digits: &str) -> Result<u16, ()> {
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let canonical = digits == "0" || !digits.starts_with('0');
    if plain && canonical { digits.parse().map_err(|_| ()) } else { Err(()) }
}

impl std::str::FromStr for Device {
    type Err = ();
    fn from_str(s: &str) -> Result<Self, ()> {
        if s == "cpu" {
            return Ok(Self::Cpu);
        }
        let numbers = s.strip_prefix("gpu").ok_or(())?;
        match numbers.split_once(':') {
            None => plain_number(numbers).map(Self::Gpu),
            Some((gpu, instance)) => {
                Ok(Self::Mig { gpu: plain_number(gpu)?, instance: plain_number(instance)? })
            }
        }
    }
}

impl TryFrom<String> for Device {
    type Error = &'static str;
    fn try_from(s: String) -> Result<Self, &'static str> {
        s.parse().map_err(|()| "a device is \"cpu\", \"gpu0\" or \"gpu0:1\"")
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.to_string()
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Gpu(n) => write!(f, "gpu{n}"),
            Self::Mig { gpu, instance } => write!(f, "gpu{gpu}:{instance}"),
        }
    }
}
