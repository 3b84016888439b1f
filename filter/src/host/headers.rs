//! A whole header map, fetched in one call: each call to the host costs more than a look through all names.

/// Headers as the ABI passes a map: their number u32, the sizes u32 of each name and value, then each with a zero after
/// it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    map: Vec<u8>,
}

impl Headers {
    /// A map that the host filled. Whatever is wrong with it reads as no header.
    #[must_use]
    pub fn new(map: Vec<u8>) -> Self {
        Self { map }
    }

    /// The first value of that name, in any case of letters, whatever its bytes.
    #[must_use]
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        let (count, rest) = self.map.split_first_chunk()?;
        let count = u32::from_le_bytes(*count) as usize;
        let (sizes, mut rest) = rest.split_at_checked(count.checked_mul(8)?)?;
        for size in sizes.chunks_exact(8) {
            let (of_name, of_value) = size.split_first_chunk()?;
            let of_value = u32::from_le_bytes(of_value.try_into().ok()?) as usize;
            let (this, after) = rest.split_at_checked(u32::from_le_bytes(*of_name) as usize)?;
            let (value, after) = after.get(1..)?.split_at_checked(of_value)?;
            rest = after.get(1..)?;
            if this.eq_ignore_ascii_case(name.as_bytes()) {
                return Some(value);
            }
        }
        None
    }

    /// The same as text. What is not UTF-8 reads as no header.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.bytes(name)?).ok()
    }

    /// Whether there is a header of that name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.bytes(name).is_some()
    }
}

/// Headers as the ABI passes a map.
#[must_use]
#[cfg_attr(not(any(test, fuzzing, target_arch = "wasm32")), allow(dead_code, reason = "who calls it is not built for"))]
pub fn encode(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut map = (headers.len() as u32).to_le_bytes().to_vec();
    for (name, value) in headers {
        map.extend_from_slice(&(name.len() as u32).to_le_bytes());
        map.extend_from_slice(&(value.len() as u32).to_le_bytes());
    }
    for part in headers.iter().flat_map(|(name, value)| [name, value]) {
        map.extend_from_slice(part.as_bytes());
        map.push(0);
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_gives_what_was_put_in() {
        let headers = Headers::new(encode(&[(":path", "/v1"), ("empty", ""), ("x-a", "1"), ("x-a", "2")]));
        assert_eq!(headers.text(":path"), Some("/v1"));
        assert_eq!(headers.text("empty"), Some(""));
        assert_eq!(headers.text("X-A"), Some("1"));
        assert!(!headers.has("x-"));
        assert!(!Headers::default().has(":path"));
    }

    #[test]
    fn what_is_cut_short_or_lies_about_its_sizes_has_no_more_headers() {
        let whole = encode(&[("a", "b"), ("c", "\u{fffd}")]);
        for end in 0..whole.len() {
            assert!(!Headers::new(whole[..end].to_vec()).has("c"), "{end}");
        }
        for at in 0..whole.len() {
            let mut lies = whole.clone();
            lies[at] = 0xff;
            let headers = Headers::new(lies);
            let _ = (headers.has("a"), headers.text("c"), headers.has("none"));
        }
    }
}
