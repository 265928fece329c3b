//! A pickle is a program for a stack machine. candle's machine makes plain values of it and calls
//! nothing; what it does not do is to doubt the program. Here each step is looked at first or afterwards,
//! so that no program costs more than its file is worth.

use candle_core::pickle::{Object, Stack};

/// A value, or what is wrong with the program in words that follow a file's name.
pub type Checked<T> = Result<T, String>;

/// How deep values may lie in each other. Tensors of a checkpoint lie eight deep.
const DEPTH: usize = 64;
/// How many values may be copied or wrapped in all. A Stable Diffusion with its EMA needs half a million.
const VALUES: usize = 8_000_000;

/// Steps that need a look before they are taken.
const BINUNICODE: u8 = b'X';
const LONG1: u8 = 0x8a;
/// Steps that put values into others or copy them: tuples, calls, states, persistent ids, items, the memo.
const WRAPPING: [u8; 17] = [
    b't', 0x85, 0x86, 0x87, b'R', b'b', 0x81, b'Q', b'a', b'e', b's', b'u', b'd', b'h', b'j', b'q',
    b'r',
];

/// The value that the program makes. Calls in it are values, too: nothing is called.
///
/// # Errors
/// What is wrong with the program, in words that follow a file's name.
pub fn run(program: &[u8]) -> Checked<Object> {
    let mut rest = program;
    let mut stack = Stack::empty();
    let mut budget = VALUES;
    loop {
        let step = *rest.first().ok_or("the pickle ends before its last step")?;
        foresee(step, &rest[1..])?;
        if stack.read(&mut rest).map_err(|e| why(step, &e))? {
            return stack.finalize().map_err(|e| e.to_string());
        }
        if WRAPPING.contains(&step)
            && let Some(value) = stack.stack().last()
        {
            measure(value, DEPTH, &mut budget)?;
        }
    }
}

/// Refuses steps that would reserve more memory than there are bytes, or overflow.
fn foresee(step: u8, argument: &[u8]) -> Checked<()> {
    let too_long = match (step, argument) {
        (BINUNICODE, &[a, b, c, d, ref text @ ..]) => {
            u32::from_le_bytes([a, b, c, d]) as usize > text.len()
        }
        (LONG1, &[bytes, ..]) => bytes > 8,
        _ => false,
    };
    match too_long {
        true => Err("a value in the pickle is longer than the pickle".into()),
        false => Ok(()),
    }
}

fn why(step: u8, error: &candle_core::Error) -> String {
    match step {
        // the marks of protocols 3 to 5
        b'B' | b'C' | 0x8b..=0x98 => {
            format!("the pickle has the step {step:#x} of a newer protocol")
        }
        _ => format!("the pickle cannot be followed: {error}"),
    }
}

/// Takes the values in `value` off the budget.
fn measure(value: &Object, depth: usize, budget: &mut usize) -> Checked<()> {
    if depth == 0 || *budget == 0 {
        return Err("the pickle nests or copies more values than any checkpoint does".into());
    }
    *budget -= 1;
    inner(value).into_iter().try_for_each(|value| measure(value, depth - 1, budget))
}

/// The values that lie directly in `value`.
pub fn inner(value: &Object) -> Vec<&Object> {
    match value {
        Object::Tuple(values) | Object::List(values) => values.iter().collect(),
        Object::Dict(items) => items.iter().flat_map(|(key, value)| [key, value]).collect(),
        Object::Reduce { callable, args } | Object::Build { callable, args } => {
            vec![callable, args]
        }
        Object::PersistentLoad(id) => vec![id],
        _ => vec![],
    }
}
