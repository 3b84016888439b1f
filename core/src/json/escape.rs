//! Escapes of strings. The short ones stay as they are, for a string has one way to write each of these characters once
//! `\u` and `\/` are resolved to them.

/// What after a `\` stays as it is.
pub(super) const SHORT: [u8; 7] = *b"\"\\ntrbf";
/// Those of them that are letters.
pub(super) const SHORT_LETTERS: [u8; 5] = *b"ntrbf";

/// The short escape of a character that must not stand in a string, or has one.
pub(super) fn shortened(point: u32) -> Option<u8> {
    Some(match point {
        0x08 => b'b',
        0x09 => b't',
        0x0A => b'n',
        0x0C => b'f',
        0x0D => b'r',
        0x22 => b'"',
        0x5C => b'\\',
        _ => return None,
    })
}

/// Resolves the short escapes too.
#[must_use]
pub fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        out.push(match (byte, byte == &b'\\') {
            (byte, false) => *byte,
            (_, true) => match bytes.next() {
                Some(b'b') => 0x08,
                Some(b't') => 0x09,
                Some(b'n') => 0x0A,
                Some(b'f') => 0x0C,
                Some(b'r') => 0x0D,
                Some(byte) => *byte,
                None => b'\\',
            },
        });
    }
    out
}

/// The four digits of `\u`, as a UTF-16 code unit.
#[inline]
pub(super) fn code_unit(digits: [u8; 4]) -> Option<u16> {
    digits.into_iter().try_fold(0, |value, digit| Some(value << 4 | (digit as char).to_digit(16)? as u16))
}
