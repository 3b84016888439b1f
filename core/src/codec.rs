//! Bounds-checked reading and writing of bytes: little-endian integers, LEB128 varints, length-prefixed strings.
//!
//! Everything that stands in shared data or crosses the feed is written with it, and everything that is read may have
//! been written by another version or be garbage: a reader returns [`Truncated`], never panics and never allocates
//! more than the bytes at hand can justify.

/// The bytes ended before the value did, or a value is out of its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncated;

/// Appends values to a buffer.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// A writer with room for `capacity` bytes.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity) }
    }

    /// Goes on where `bytes` ends.
    #[must_use]
    pub fn onto(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    /// One byte.
    pub fn u8(&mut self, v: u8) {
        self.bytes.push(v);
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self, v: u32) {
        self.bytes.extend_from_slice(&v.to_le_bytes());
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self, v: u64) {
        self.bytes.extend_from_slice(&v.to_le_bytes());
    }

    /// LEB128, 1 to 10 bytes.
    pub fn varint(&mut self, mut v: u64) {
        while v >= 0x80 {
            self.bytes.push((v as u8) | 0x80);
            v >>= 7;
        }
        self.bytes.push(v as u8);
    }

    /// A varint length, then the bytes.
    pub fn bytes(&mut self, v: &[u8]) {
        self.varint(v.len() as u64);
        self.bytes.extend_from_slice(v);
    }

    /// A varint length, then the UTF-8 bytes.
    pub fn str(&mut self, v: &str) {
        self.bytes(v.as_bytes());
    }

    /// How many bytes there are so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What was written so far.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// The buffer.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Takes values from the front of a slice.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader over all of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// How many bytes are left.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// [`Truncated`] when fewer are left.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Truncated> {
        let (head, tail) = self.rest.split_at_checked(n).ok_or(Truncated)?;
        self.rest = tail;
        Ok(head)
    }

    /// One byte.
    ///
    /// # Errors
    /// [`Truncated`] at the end.
    pub fn u8(&mut self) -> Result<u8, Truncated> {
        self.take(1)?.first().copied().ok_or(Truncated)
    }

    /// Four bytes, little-endian.
    ///
    /// # Errors
    /// [`Truncated`] when fewer are left.
    pub fn u32(&mut self) -> Result<u32, Truncated> {
        self.take(4)?.try_into().map(u32::from_le_bytes).map_err(|_| Truncated)
    }

    /// Eight bytes, little-endian.
    ///
    /// # Errors
    /// [`Truncated`] when fewer are left.
    pub fn u64(&mut self) -> Result<u64, Truncated> {
        self.take(8)?.try_into().map(u64::from_le_bytes).map_err(|_| Truncated)
    }

    /// LEB128.
    ///
    /// # Errors
    /// [`Truncated`] at the end, or when the value does not fit 64 bits.
    pub fn varint(&mut self) -> Result<u64, Truncated> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                return Err(Truncated);
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Truncated)
    }

    /// A varint that must fit 32 bits.
    ///
    /// # Errors
    /// [`Truncated`] at the end or out of range.
    pub fn varint32(&mut self) -> Result<u32, Truncated> {
        u32::try_from(self.varint()?).map_err(|_| Truncated)
    }

    /// How many items follow, when each takes at least `least` bytes: a count that the rest cannot hold is refused
    /// before anything is allocated for it.
    ///
    /// # Errors
    /// [`Truncated`] at the end or when the count cannot be true.
    pub fn count(&mut self, least: usize) -> Result<usize, Truncated> {
        let n = usize::try_from(self.varint()?).map_err(|_| Truncated)?;
        if n.checked_mul(least.max(1)).is_none_or(|bytes| bytes > self.rest.len()) {
            return Err(Truncated);
        }
        Ok(n)
    }

    /// Length-prefixed bytes.
    ///
    /// # Errors
    /// [`Truncated`] when the length is past the end.
    pub fn bytes(&mut self) -> Result<&'a [u8], Truncated> {
        let n = self.count(1)?;
        self.take(n)
    }

    /// A length-prefixed string.
    ///
    /// # Errors
    /// [`Truncated`] when the length is past the end or the bytes are not UTF-8.
    pub fn str(&mut self) -> Result<&'a str, Truncated> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Truncated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_written_is_read(a: u8, b: u32, c: u64, d: u64, s in ".*") {
            let mut w = Writer::default();
            w.u8(a); w.u32(b); w.u64(c); w.varint(d); w.str(&s);
            let bytes = w.finish();
            let mut r = Reader::new(&bytes);
            prop_assert_eq!(r.u8(), Ok(a));
            prop_assert_eq!(r.u32(), Ok(b));
            prop_assert_eq!(r.u64(), Ok(c));
            prop_assert_eq!(r.varint(), Ok(d));
            prop_assert_eq!(r.str(), Ok(s.as_str()));
            prop_assert_eq!(r.remaining(), 0);
            for cut in 0..bytes.len() {
                let mut r = Reader::new(&bytes[..cut]);
                let all = (|| { r.u8()?; r.u32()?; r.u64()?; r.varint()?; r.str().map(|_| ()) })();
                prop_assert_eq!(all, Err(Truncated));
            }
        }
    }

    #[test]
    fn a_count_that_the_bytes_cannot_hold_is_refused() {
        let mut w = Writer::default();
        w.varint(1 << 40);
        assert_eq!(Reader::new(w.as_slice()).count(1), Err(Truncated));
        assert_eq!(Reader::new(w.as_slice()).bytes(), Err(Truncated));
    }

    #[test]
    fn an_eleven_byte_varint_is_refused() {
        assert_eq!(Reader::new(&[0xff; 11]).varint(), Err(Truncated));
        assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]).varint(), Ok(u64::MAX));
    }
}
