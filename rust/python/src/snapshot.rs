//! What dictionaries and arrays hold at one moment, to be compared with what they hold later.

use mlx_baselines3_macros::guarded;
use pyo3::exceptions::PyAttributeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFrozenSet, PyString, PyType};
use pyo3::{PyTraverseError, PyVisit};

use crate::args::Many;
use crate::ffi::plain::OnePiece;

/// What is compared of a value.
enum Kept {
    Nothing,
    Identity(Py<PyAny>),
    /// Of an array the shape, and which one it was at the last call of `is_same`.
    Array(Py<PyAny>, Option<Py<PyAny>>),
}

struct Entry {
    key: Py<PyAny>,
    kept: Kept,
}

struct Holder {
    entries: Py<PyDict>,
    seen: Vec<Entry>,
}

/// A method as its class gives it.
struct Method {
    kind: Py<PyAny>,
    name: Py<PyString>,
    function: Py<PyAny>,
}

/// Entries of dictionaries, and methods of classes.
#[pyclass]
struct Snapshot {
    holders: Vec<Holder>,
    methods: Vec<Method>,
    arrays: Option<Py<PyType>>,
}

#[guarded]
#[pymethods]
impl Snapshot {
    #[new]
    fn new(
        holders: Many<Bound<'_, PyDict>>,
        ignored: &Bound<'_, PyFrozenSet>,
        arrays: Bound<'_, PyType>,
        methods: Many<(Bound<'_, PyAny>, Bound<'_, PyString>)>,
    ) -> PyResult<Self> {
        let holder = |entries: Bound<'_, PyDict>| {
            // A list: whatever Python code the shape of an array runs may change the dictionary.
            let entry = |(key, value): (Bound<'_, PyAny>, Bound<'_, PyAny>)| {
                let kept = if ignored.contains(&key)? {
                    Kept::Nothing
                } else if value.get_type().is(&arrays) {
                    Kept::Array(value.getattr("shape")?.unbind(), None)
                } else {
                    Kept::Identity(value.unbind())
                };
                let key = key.unbind();
                Ok(Entry { key, kept })
            };
            let items: Vec<_> = entries.iter().collect();
            Ok(Holder {
                seen: items.into_iter().map(entry).collect::<PyResult<_>>()?,
                entries: entries.unbind(),
            })
        };
        let method = |(kind, name): (Bound<'_, PyAny>, Bound<'_, PyString>)| {
            Ok(Method {
                function: kind.getattr(&name)?.unbind(),
                kind: kind.unbind(),
                name: name.unbind(),
            })
        };
        Ok(Self {
            holders: holders.0.into_iter().map(holder).collect::<PyResult<_>>()?,
            methods: methods.0.into_iter().map(method).collect::<PyResult<_>>()?,
            arrays: Some(arrays.unbind()),
        })
    }

    /// Whether the dictionaries have the same entries, and the classes the same methods.
    fn is_current(&self, py: Python<'_>) -> PyResult<bool> {
        let Some(arrays) = &self.arrays else {
            return Ok(false);
        };
        let arrays = arrays.bind(py);
        for holder in &self.holders {
            if !holder.is_current(arrays)? {
                return Ok(false);
            }
        }
        for method in &self.methods {
            match method.kind.bind(py).getattr(&method.name) {
                Ok(function) if function.is(&method.function) => {}
                Err(error) if !error.is_instance_of::<PyAttributeError>(py) => return Err(error),
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Whether the arrays are those of the last call, which are kept until the next one; `None` if the
    /// rest is not current.
    fn is_same(&mut self, py: Python<'_>) -> PyResult<Option<bool>> {
        if !self.is_current(py)? {
            return Ok(None);
        }
        let mut same = true;
        for holder in &mut self.holders {
            let entries = holder.entries.bind(py);
            for Entry { key, kept } in &mut holder.seen {
                if let Kept::Array(_, last) = kept {
                    let now = entries.get_item(&*key)?.map(Bound::unbind);
                    let is_last = matches!((&now, &*last), (Some(now), Some(last)) if now.is(last));
                    if !is_last {
                        (same, *last) = (false, now);
                    }
                }
            }
        }
        Ok(Some(same))
    }

    // What a policy is made of leads back to the snapshot that is one of its attributes.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        for holder in &self.holders {
            visit.call(&holder.entries)?;
            for Entry { key, kept } in &holder.seen {
                visit.call(key)?;
                match kept {
                    Kept::Nothing => {}
                    Kept::Identity(value) => visit.call(value)?,
                    Kept::Array(shape, last) => {
                        visit.call(shape)?;
                        visit.call(last)?;
                    }
                }
            }
        }
        for method in &self.methods {
            visit.call(&method.kind)?;
            visit.call(&method.function)?;
        }
        visit.call(&self.arrays)
    }

    fn __clear__(&mut self) {
        self.holders.clear();
        self.methods.clear();
        self.arrays = None;
    }
}

impl Holder {
    /// Whether the same keys are there in the same order, with the same values.
    fn is_current(&self, arrays: &Bound<'_, PyType>) -> PyResult<bool> {
        let py = arrays.py();
        let entries = self.entries.bind(py);
        if entries.len() != self.seen.len() {
            return Ok(false);
        }
        for (seen, (key, value)) in self.seen.iter().zip(entries.iter()) {
            let same = key.is(&seen.key)
                && match &seen.kept {
                    Kept::Nothing => true,
                    Kept::Identity(known) => value.is(known),
                    Kept::Array(_, Some(last)) if value.is(last) => true,
                    // MLX's own: no Python code runs that could change the dictionary.
                    Kept::Array(shape, _) => {
                        value.get_type().is(arrays)
                            && value.getattr(intern!(py, "shape"))?.eq(shape)?
                    }
                };
            if !same {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The bytes of arrays at one moment; none of an array of anything but plain numbers.
#[pyclass(frozen)]
struct Copies(Vec<Option<Vec<u8>>>);

#[guarded]
#[pymethods]
impl Copies {
    #[new]
    fn new(arrays: Many<Bound<'_, PyAny>>) -> PyResult<Self> {
        let copies = arrays
            .0
            .iter()
            .map(|array| Ok(OnePiece::of(array)?.to_vec()));
        Ok(Self(copies.collect::<PyResult<_>>()?))
    }

    /// How many of these arrays have the same bytes, counted up to the first that does not.
    fn count_same(&self, arrays: Many<Bound<'_, PyAny>>) -> PyResult<usize> {
        let mut count = 0;
        for (array, bytes) in arrays.0.iter().zip(&self.0) {
            let now = OnePiece::of(array)?;
            if !bytes.as_ref().is_some_and(|bytes| now.is(bytes)) {
                break;
            }
            count += 1;
        }
        Ok(count)
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Copies>()?;
    m.add_class::<Snapshot>()
}
