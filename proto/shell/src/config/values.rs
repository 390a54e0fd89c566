//! Values as people write them: durations, sizes and file modes.

use std::{fmt, path::Path, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A duration such as `500ms`, `15s`, `2m`, `1h30m` or `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A number of bytes such as `512`, `64KiB`, `16MiB` or `1GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A file mode such as `0660`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode(pub u32);

const SPAN_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZE_UNITS: [(&str, u64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("B", 1)];

const SPAN_ALLOWED: &str = "a duration such as \"500ms\", \"15s\", \"2m\", \"1h30m\" or \"7d\"";
const SIZE_ALLOWED: &str = "a size such as \"64KiB\", \"16MiB\" or a number of bytes";
const MODE_ALLOWED: &str = "a file mode in octal digits such as \"0660\"";

// === impl Span ===

impl Span {
    /// That many seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// Reads one or more numbers with units.
    pub fn parse(text: &str) -> Option<Self> {
        let mut rest = text.trim();
        let mut total: u64 = 0;
        if rest == "0" {
            return Some(Self(Duration::ZERO));
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit())?;
            let (number, tail) = rest.split_at_checked(digits)?;
            let end = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at_checked(end)?;
            let (_, millis) = SPAN_UNITS.iter().find(|(name, _)| *name == unit)?;
            total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(*millis)?)?;
            rest = tail.trim_start();
        }
        (!text.trim().is_empty()).then_some(Self(Duration::from_millis(total)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let unit = SPAN_UNITS.iter().rev().find(|(_, size)| millis.is_multiple_of(*size) && millis >= *size);
        let (name, size) = unit.unwrap_or(&("s", 1000));
        write!(f, "{}{name}", millis / size)
    }
}

// === impl Size ===

impl Size {
    /// Reads a number with an optional unit.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (number, unit) =
            SIZE_UNITS.iter().find_map(|(name, size)| text.strip_suffix(name).map(|number| (number, *size))).unwrap_or((text, 1));
        number.trim().parse::<u64>().ok()?.checked_mul(unit).map(Self)
    }

    /// As a length in memory.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = SIZE_UNITS.iter().take(3).rev().find(|(_, size)| self.0.is_multiple_of(*size) && self.0 >= *size);
        match unit {
            Some((name, size)) => write!(f, "{}{name}", self.0 / size),
            None => write!(f, "{}", self.0),
        }
    }
}

// === impl Mode ===

impl Mode {
    fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix("0o").unwrap_or(text);
        u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777 && text.len() >= 3).map(Self)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

// === serde and schema ===

macro_rules! written {
    ($name:ident, $allowed:ident, $number:expr) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl de::Visitor<'_> for Visitor {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($allowed)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        $name::parse(text).ok_or_else(|| E::custom(format!("'{text}' is not understood; must be {}", $allowed)))
                    }

                    fn visit_i64<E: de::Error>(self, value: i64) -> Result<$name, E> {
                        let read: fn(i64) -> Option<$name> = $number;
                        read(value).ok_or_else(|| E::invalid_type(de::Unexpected::Signed(value), &self))
                    }
                }
                deserializer.deserialize_any(Visitor)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "description": $allowed })
            }
        }
    };
}

written!(Span, SPAN_ALLOWED, |_| None);
written!(Size, SIZE_ALLOWED, |value| u64::try_from(value).ok().map(Size));
written!(Mode, MODE_ALLOWED, |_| None);

/// Reads a whole file of at most `most` bytes.
pub fn read_bounded(path: &Path, most: u64) -> Result<Vec<u8>, String> {
    use std::io::Read;
    let name = path.display();
    let file = std::fs::File::open(path).map_err(|error| format!("{name} cannot be read: {error}"))?;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(|error| format!("{name} cannot be read: {error}"))?;
    if bytes.len() as u64 > most {
        return Err(format!("{name} is longer than {most} bytes"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_read_and_written_alike() {
        for text in ["500ms", "15s", "2m", "36h", "7d", "0s"] {
            assert_eq!(Span::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Span::parse("1h30m").unwrap(), Span::seconds(5400));
        for bad in ["", "15", "s", "1w", "-1s", "1.5s", "99999999999999999999s", "9999999999999999999d"] {
            assert_eq!(Span::parse(bad), None, "{bad}");
        }
        for text in ["64KiB", "16MiB", "1GiB", "1000"] {
            assert_eq!(Size::parse(text).unwrap().to_string(), text);
        }
        for bad in ["", "KiB", "1KB", "-1", "99999999999GiB"] {
            assert_eq!(Size::parse(bad), None, "{bad}");
        }
        assert_eq!(Mode::parse("0660"), Some(Mode(0o660)));
        assert_eq!(Mode::parse("0990"), None);
    }
}
