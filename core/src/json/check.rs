//! Numbers and words, and UTF-8, checked while their pieces come.

use super::JsonError;
use simdutf8::compat::from_utf8;

pub(super) fn is_scalar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.')
}

/// Checks numbers by their first byte and words by their spelling.
#[derive(Clone, Debug, Default)]
pub(super) struct ScalarCheck {
    first: [u8; 5],
    len: usize,
}

impl ScalarCheck {
    pub(super) fn feed(&mut self, run: &[u8]) -> Result<(), JsonError> {
        for (slot, byte) in self.first.iter_mut().skip(self.len).zip(run) {
            *slot = *byte;
        }
        self.len = self.len.saturating_add(run.len());
        match self.first.first() {
            Some(b'-' | b'0'..=b'9') => Ok(()),
            _ if self.len <= 5 => Ok(()),
            _ => Err(JsonError::Syntax),
        }
    }

    pub(super) fn finish(&self) -> Result<(), JsonError> {
        match self.first.get(..self.len.min(5)) {
            Some(b"true" | b"false" | b"null") => Ok(()),
            // Python's parser reads these too, so a client may send them.
            Some([b'-', b'0'..=b'9' | b'I', ..] | [b'0'..=b'9', ..] | b"NaN") => Ok(()),
            _ => Err(JsonError::Syntax),
        }
    }
}

/// Checks UTF-8 over pieces, keeping the start of a character that the next piece ends.
#[derive(Clone, Debug, Default)]
pub(super) struct Utf8Tail {
    bytes: [u8; 4],
    len: usize,
}

impl Utf8Tail {
    #[inline]
    pub(super) fn feed(&mut self, mut piece: &[u8]) -> Result<(), JsonError> {
        while self.len > 0 {
            let Some((byte, tail)) = piece.split_first() else { return Ok(()) };
            *self.bytes.get_mut(self.len).ok_or(JsonError::Utf8)? = *byte;
            self.len += 1;
            piece = tail;
            let so_far = self.bytes.get(..self.len).ok_or(JsonError::Utf8)?;
            match from_utf8(so_far) {
                Ok(_) => self.len = 0,
                Err(e) if e.error_len().is_some() => return Err(JsonError::Utf8),
                Err(_) => {}
            }
        }
        if let Err(e) = from_utf8(piece) {
            if e.error_len().is_some() {
                return Err(JsonError::Utf8);
            }
            let open = piece.get(e.valid_up_to()..).unwrap_or_default();
            for (slot, byte) in self.bytes.iter_mut().zip(open) {
                *slot = *byte;
            }
            self.len = open.len();
        }
        Ok(())
    }

    /// Whether a character is open.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.len > 0
    }

    #[inline]
    pub(super) fn at_boundary(&self) -> Result<(), JsonError> {
        if self.len == 0 { Ok(()) } else { Err(JsonError::Utf8) }
    }
}
