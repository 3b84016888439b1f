//! The reader: scanner events of a body in, [`Prompt`] out.

use super::canonical::{Canonical, Digest, Shape};
use super::fields::{ApiKind, Member, SALT};
use super::stage::Stage;
use super::{LoadOnly, Prompt};
use crate::json::{Container, JsonError, Scanner, Sink, keep, unescape};
use crate::prefix::PrefixHasher;
use crate::units::{ResponseKey, mix};

/// Longest model name that is kept. Longer ones cannot name a pool.
const MODEL_LIMIT: usize = 512;
/// The same for a member's key, and for a number or word.
const KEY_LIMIT: usize = 64;
const SCALAR_LIMIT: usize = 24;

/// Reads one request body, chunk by chunk.
#[derive(Clone, Debug)]
pub struct Reader {
    scanner: Scanner,
    body: Body,
    seen: u64,
}

impl Reader {
    /// A reader for a body of `api`.
    #[must_use]
    pub fn new(api: ApiKind) -> Self {
        Self { scanner: Scanner::default(), body: Body::new(api), seen: 0 }
    }

    /// Reads the next chunk. Errors are kept for [`Reader::finish`]: a request is never refused here.
    #[inline]
    pub fn feed(&mut self, chunk: &[u8]) {
        self.seen += chunk.len() as u64;
        if self.body.barred.is_none()
            && let Err(error) = self.scanner.feed(chunk, &mut self.body)
        {
            self.body.bar(error.into());
        }
    }

    /// Whether the document is complete, or cannot be matched whatever comes. What may follow it, white space or garbage
    /// for which the pod refuses it, is not waited for.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.body.barred.is_some() || self.scanner.is_complete()
    }

    /// The model, as soon as it was read: a request that is placed by load alone still has its pool.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        self.body.model.as_deref()
    }

    /// The stored answer that the request goes on from. Known when the body is complete: `model` may come after it.
    #[must_use]
    pub fn previous(&self) -> Option<ResponseKey> {
        self.body.previous
    }

    /// A copy to go on from, without text that is not needed for that.
    pub(super) fn checkpoint(&mut self) -> Self {
        self.body.flush();
        self.clone()
    }

    /// About how many bytes of memory such a copy takes.
    pub(super) fn weight(&self) -> usize {
        let boundaries = self.body.context.hasher.boundary_count() + self.body.system.hasher.boundary_count();
        size_of::<Self>() + 256 + boundaries * 16
    }

    /// The body is over.
    ///
    /// # Errors
    /// [`LoadOnly`] when there is no prompt to match in it.
    pub fn finish(&mut self) -> Result<Prompt, LoadOnly> {
        if self.seen == 0 {
            return Err(LoadOnly::Empty);
        }
        if self.body.barred.is_none()
            && let Err(error) = self.scanner.finish(&mut self.body)
        {
            self.body.bar(error.into());
        }
        self.body.prompt()
    }
}

impl From<JsonError> for LoadOnly {
    fn from(error: JsonError) -> Self {
        match error {
            JsonError::Syntax => Self::NotJson,
            JsonError::TooDeep => Self::TooDeep,
            JsonError::Utf8 => Self::NotUtf8,
        }
    }
}

/// An identifying member's digest.
#[derive(Clone)]
struct Identity {
    number: u8,
    in_prompt: bool,
    digest: Digest,
}

/// The text of the prompt that has boundaries.
#[derive(Clone, Default)]
struct Text {
    hasher: PrefixHasher,
    present: bool,
}

#[derive(Clone)]
struct Body {
    api: ApiKind,
    member: Member,
    key: Vec<u8>,
    in_key: bool,
    members_seen: u32,
    barred: Option<LoadOnly>,
    canonical: Canonical,
    stage: Stage,
    context: Text,
    system: Text,
    identities: Vec<Identity>,
    scalar: Vec<u8>,
    model: Option<String>,
    model_bytes: Vec<u8>,
    previous_bytes: Vec<u8>,
    previous: Option<ResponseKey>,
    stream: bool,
    max_tokens: Option<u32>,
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the prompt's text.
        write!(f, "Body({:?}, {} bytes of context, barred: {:?})", self.api, self.context.hasher.len(), self.barred)
    }
}

impl Body {
    fn new(api: ApiKind) -> Self {
        Self {
            api,
            member: Member::Ignored,
            key: Vec::new(),
            in_key: false,
            members_seen: 0,
            barred: None,
            canonical: Canonical::new(Shape::Plain),
            stage: Stage::default(),
            context: Text::default(),
            system: Text::default(),
            identities: Vec::new(),
            scalar: Vec::new(),
            model: None,
            model_bytes: Vec::new(),
            previous_bytes: Vec::new(),
            previous: None,
            stream: false,
            max_tokens: None,
        }
    }

    fn bar(&mut self, why: LoadOnly) {
        self.barred.get_or_insert(why);
    }

    fn begin_member(&mut self, key: &[u8]) {
        self.member = Member::of(self.api, key);
        let bit = self.member.bit();
        if self.members_seen & bit != 0 {
            self.bar(LoadOnly::DuplicateMember);
        }
        self.members_seen |= bit;
        let shape = match (self.member, self.api) {
            (Member::Context, ApiKind::Completions) => Shape::Text,
            (Member::Context, _) => Shape::Messages,
            (Member::System, _) => Shape::Parts,
            _ => Shape::Plain,
        };
        self.canonical = Canonical::new(shape);
        if let Member::Identity { number, in_prompt } = self.member {
            self.identities.push(Identity { number, in_prompt, digest: Digest::default() });
        }
    }

    /// The first token of a member's value: checks the shape that the path promises.
    fn begin_value(&mut self, container: Option<Container>, string: bool, depth: u32) {
        match (self.member, depth) {
            (Member::Context, 1) => {
                let fits = match self.api {
                    ApiKind::Chat | ApiKind::Messages => container == Some(Container::Array),
                    _ => container == Some(Container::Array) || string,
                };
                if !fits {
                    self.bar(LoadOnly::UnknownShape);
                }
                self.context.present = true;
            }
            // A message is an object; so is an item of `input`. Texts and token numbers are only in `prompt`.
            (Member::Context, 2) if self.api != ApiKind::Completions && container != Some(Container::Object) => {
                self.bar(LoadOnly::UnknownShape);
            }
            (Member::System, 1) => {
                if container == Some(Container::Object) {
                    self.bar(LoadOnly::UnknownShape);
                }
                self.system.present = true;
            }
            (Member::Model, 1) if !string => self.bar(LoadOnly::UnknownShape),
            (Member::Previous, 1) if !string => self.bar(LoadOnly::UnknownShape),
            (Member::Bars(why), 1) if string || container.is_some() => self.bar(why),
            _ => {}
        }
    }

    /// A value ended with `depth` containers around it.
    fn end_value(&mut self, depth: u32) {
        if depth == 1 {
            self.flush();
            match self.member {
                Member::Context => self.context.hasher.end_of_message(),
                Member::System => self.system.hasher.end_of_message(),
                _ => {}
            }
            self.member = Member::Ignored;
        } else if depth == 2 && self.member == Member::Context && self.context.hasher.wants_end(self.stage.len()) {
            self.flush();
            self.context.hasher.end_of_message();
        }
    }

    fn end_scalar(&mut self, depth: u32) {
        if depth != 1 {
            return;
        }
        let null = self.scalar == b"null";
        match self.member {
            Member::Stream => self.stream = self.scalar == b"true",
            Member::MaxTokens => {
                self.max_tokens = std::str::from_utf8(&self.scalar).ok().and_then(|s| s.parse().ok());
            }
            // null stands for absent.
            Member::Identity { .. } if null => {
                self.identities.pop();
                self.stage.take();
            }
            Member::Context | Member::System if !null => self.bar(LoadOnly::UnknownShape),
            Member::Model if !null => self.bar(LoadOnly::UnknownShape),
            Member::Bars(why) if !null => self.bar(why),
            Member::Previous if !null => self.bar(LoadOnly::UnknownShape),
            _ => {}
        }
    }

    fn prompt(&mut self) -> Result<Prompt, LoadOnly> {
        if let Some(why) = self.barred {
            return Err(why);
        }
        if self.previous.is_some() {
            return Err(LoadOnly::Stateful);
        }
        if !self.context.present || self.context.hasher.is_empty() {
            return Err(if self.api == ApiKind::Other { LoadOnly::NoPrefix } else { LoadOnly::NoPrompt });
        }
        let mut seed = mix(self.api.seed(), xxhash_rust::xxh64::xxh64(&self.model_bytes, 1));
        let mut before = 0;
        self.identities.sort_by_key(|i| i.number);
        for identity in &self.identities {
            seed = mix(seed ^ u64::from(identity.number), identity.digest.value());
            if identity.in_prompt {
                before += identity.digest.bytes;
            }
        }
        let mut boundaries = Vec::new();
        if self.system.present {
            boundaries.extend(self.system.hasher.boundaries(mix(seed, 1), before));
            before += self.system.hasher.len();
            seed = mix(seed, self.system.hasher.digest());
        }
        boundaries.extend(self.context.hasher.boundaries(seed, before));
        Ok(Prompt {
            model: self.model.clone(),
            boundaries,
            bytes: u32::try_from(before + self.context.hasher.len()).unwrap_or(u32::MAX),
            stream: self.stream,
            max_tokens: self.max_tokens,
            salted: self.identities.iter().any(|i| i.number == SALT),
        })
    }

    /// Runs `write` with the canonical form of the member at hand and the stage, if it is one that is hashed.
    #[inline(always)]
    fn hashed(&mut self, write: impl FnOnce(&mut Canonical, &mut Stage)) {
        if self.member.is_hashed() {
            write(&mut self.canonical, &mut self.stage);
            if self.stage.is_enough() {
                self.flush();
            }
        }
    }

    /// Hashes what is staged of the member at hand.
    #[inline(never)]
    fn flush(&mut self) {
        match self.member {
            Member::Context => self.context.hasher.write(self.stage.take()),
            Member::System => self.system.hasher.write(self.stage.take()),
            Member::Identity { .. } => {
                if let Some(identity) = self.identities.last_mut() {
                    identity.digest.write(self.stage.take());
                }
            }
            _ => {}
        }
    }
}

/// Depth inside a member's value: the top-level object is around everything.
const VALUE: u32 = 1;

impl Sink for Body {
    fn open(&mut self, container: Container, depth: u32) {
        if depth == 0 {
            if container == Container::Array {
                self.bar(LoadOnly::UnknownShape);
            }
            return;
        }
        self.begin_value(Some(container), false, depth);
        self.hashed(|c, out| c.open(container, depth - VALUE, out));
    }

    fn close(&mut self, container: Container, depth: u32) {
        if depth == 0 {
            return;
        }
        self.hashed(|c, out| c.close(container, depth - VALUE, out));
        self.end_value(depth);
    }

    #[inline(always)]
    fn string(&mut self, key: bool, depth: u32, text: &[u8]) {
        if !self.member.is_hashed() {
            self.string_start(key, depth);
            self.string_piece(text);
            self.string_end(key, depth);
            return;
        }
        // Below that depth no shape is checked and no boundary stands.
        let counts = !key && depth <= 2;
        if counts {
            self.begin_value(None, true, depth);
        }
        self.hashed(|c, out| c.string(key, depth - VALUE, text, out));
        if counts {
            self.end_value(depth);
        }
    }

    fn string_start(&mut self, key: bool, depth: u32) {
        self.in_key = key;
        if depth == 0 {
            self.bar(LoadOnly::UnknownShape);
            return;
        }
        if key && depth == 1 {
            self.key.clear();
            return;
        }
        if !key {
            self.begin_value(None, true, depth);
        }
        self.hashed(|c, out| c.string_start(key, out));
    }

    #[inline]
    fn string_piece(&mut self, piece: &[u8]) {
        let key = self.in_key;
        match self.member {
            Member::Context | Member::System | Member::Identity { .. } => {
                self.hashed(|c, out| c.string_piece(key, piece, out));
            }
            Member::Model if !key => {
                keep(&mut self.model_bytes, piece, MODEL_LIMIT);
            }
            Member::Previous if !key => {
                keep(&mut self.previous_bytes, piece, ResponseKey::LONGEST);
            }
            // Between members: the key of the next one.
            _ if key => {
                keep(&mut self.key, piece, KEY_LIMIT);
            }
            _ => {}
        }
    }

    fn string_end(&mut self, key: bool, depth: u32) {
        if depth == 0 {
            return;
        }
        if key && depth == 1 {
            let key = std::mem::take(&mut self.key);
            self.begin_member(&key);
            self.key = key;
            return;
        }
        self.hashed(|c, out| c.string_end(key, depth - VALUE, out));
        if !key {
            if self.member == Member::Model && depth == 1 {
                self.model = String::from_utf8(unescape(&self.model_bytes)).ok();
            } else if self.member == Member::Previous && depth == 1 {
                self.previous = Some(ResponseKey::of(&unescape(&self.previous_bytes)));
                self.previous_bytes.clear();
            }
            self.end_value(depth);
        }
    }

    fn scalar_piece(&mut self, piece: &[u8]) {
        keep(&mut self.scalar, piece, SCALAR_LIMIT);
        self.hashed(|c, out| c.scalar_piece(piece, out));
    }

    fn scalar_end(&mut self, depth: u32) {
        if depth == 0 {
            self.bar(LoadOnly::UnknownShape);
        } else {
            self.hashed(|c, out| c.scalar_end(depth - VALUE, out));
            if self.member == Member::Context && depth == 2 && self.api != ApiKind::Completions {
                self.bar(LoadOnly::UnknownShape);
            }
            self.end_scalar(depth);
            // Token numbers of `prompt` are not messages: boundaries stand at growing steps alone.
            if !(depth == 2 && self.member == Member::Context) {
                self.end_value(depth);
            }
        }
        self.scalar.clear();
    }
}
