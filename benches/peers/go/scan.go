// A scanner over JSON that allocates nothing: one pass, every byte checked, floats straight into the tensor.
package main

import (
	"math"
	"strconv"
	"unicode/utf8"
	"unsafe"
)

const depthMax = 128

type scanner struct {
	b []byte
	i int
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\n', '\t', '\r':
			s.i++
		default:
			return
		}
	}
}

// take passes over c, after white space.
func (s *scanner) take(c byte) bool {
	s.space()
	if s.i < len(s.b) && s.b[s.i] == c {
		s.i++
		return true
	}
	return false
}

// text returns a string as it is written, quotes included, and whether it has escapes.
func (s *scanner) text() (raw []byte, escaped, ok bool) {
	if !s.take('"') {
		return nil, false, false
	}
	start := s.i - 1
	for i := s.i; i < len(s.b); i++ {
		c := s.b[i]
		switch {
		case c == '"':
			s.i = i + 1
			return s.b[start:s.i], escaped, true
		case c == '\\':
			if i++; i >= len(s.b) {
				return nil, false, false
			}
			escaped = true
		case c < 0x20:
			return nil, false, false
		}
	}
	return nil, false, false
}

// checkedText is text whose escapes are known to be right; plain is what it stands for.
func (s *scanner) checkedText() (raw, plain []byte, ok bool) {
	raw, escaped, ok := s.text()
	if !ok {
		return nil, nil, false
	}
	if !escaped {
		return raw, raw[1 : len(raw)-1], true
	}
	plain, ok = unescape(raw[1 : len(raw)-1])
	return raw, plain, ok
}

func unescape(b []byte) ([]byte, bool) {
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		if b[i] != '\\' {
			out = append(out, b[i])
			continue
		}
		i++
		switch c := b[i]; c {
		case '"', '\\', '/':
			out = append(out, c)
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, used, ok := escapedRune(b[i-1:])
			if !ok {
				return nil, false
			}
			out = utf8.AppendRune(out, r)
			i += used - 2
		default:
			return nil, false
		}
	}
	return out, true
}

// escapedRune reads \uXXXX, or the two of a surrogate pair; half a pair is refused.
func escapedRune(b []byte) (r rune, used int, ok bool) {
	high, ok := hex4(b)
	if !ok || high >= 0xDC00 && high < 0xE000 {
		return 0, 0, false
	}
	if high < 0xD800 || high >= 0xE000 {
		return high, 6, true
	}
	low, ok := hex4(b[6:])
	if !ok || low < 0xDC00 || low >= 0xE000 {
		return 0, 0, false
	}
	return 0x10000 + (high-0xD800)<<10 + (low - 0xDC00), 12, true
}

func hex4(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(b[2:6]), 16, 16)
	return rune(n), err == nil
}

// skip passes over one value of any kind.
func (s *scanner) skip(depth int) bool {
	s.space()
	if s.i >= len(s.b) || depth > depthMax {
		return false
	}
	switch c := s.b[s.i]; c {
	case '{':
		s.i++
		return s.members(func([]byte) bool { return s.skip(depth + 1) })
	case '[':
		s.i++
		if s.take(']') {
			return true
		}
		for s.skip(depth + 1) {
			if s.take(']') {
				return true
			}
			if !s.take(',') {
				return false
			}
		}
		return false
	case '"':
		_, _, ok := s.checkedText()
		return ok
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	case 'n':
		return s.word("null")
	default:
		_, ok := s.float()
		return ok
	}
}

func (s *scanner) word(w string) bool {
	if len(s.b)-s.i < len(w) || string(s.b[s.i:s.i+len(w)]) != w {
		return false
	}
	s.i += len(w)
	return true
}

// members goes through an object whose brace is behind it; value is called at each value with its key.
func (s *scanner) members(value func(key []byte) bool) bool {
	if s.take('}') {
		return true
	}
	for {
		_, key, ok := s.checkedText()
		if !ok || !s.take(':') || !value(key) {
			return false
		}
		if s.take('}') {
			return true
		}
		if !s.take(',') {
			return false
		}
	}
}

// floats reads a flat array. It counts all numbers and keeps those that fit into dst.
func (s *scanner) floats(dst []float32) (n int, finite, ok bool) {
	finite = true
	if !s.take('[') {
		return 0, true, false
	}
	if s.take(']') {
		return 0, true, true
	}
	for {
		s.space()
		f, ok := s.float()
		if !ok {
			return 0, true, false
		}
		if n < len(dst) {
			dst[n] = f
		}
		n++
		finite = finite && f-f == 0
		if s.i < len(s.b) && s.b[s.i] == ',' {
			s.i++
			continue
		}
		if s.take(']') {
			return n, finite, true
		}
		if !s.take(',') {
			return 0, true, false
		}
	}
}

var tens = [...]float32{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10}

// float reads a number as the nearest f32. Where mantissa and power of ten are both exact in f32, one division rounds rightly;
// everything else is left to strconv.
func (s *scanner) float() (float32, bool) {
	b, i := s.b, s.i
	start := i
	negative := i < len(b) && b[i] == '-'
	if negative {
		i++
	}
	first, mantissa := i, uint64(0)
	for i < len(b) && b[i]-'0' < 10 {
		mantissa = mantissa*10 + uint64(b[i]-'0')
		i++
	}
	if i == first || b[first] == '0' && i > first+1 {
		return 0, false
	}
	digits, fraction := i-first, 0
	if i < len(b) && b[i] == '.' {
		i++
		point := i
		for i < len(b) && b[i]-'0' < 10 {
			mantissa = mantissa*10 + uint64(b[i]-'0')
			i++
		}
		if fraction = i - point; fraction == 0 {
			return 0, false
		}
		digits += fraction
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		return s.exponent(start, i+1)
	}
	s.i = i
	if digits > 19 || mantissa > 1<<24 || fraction >= len(tens) {
		return nearest(b[start:i]), true
	}
	f := float32(mantissa) / tens[fraction]
	if negative {
		f = -f
	}
	return f, true
}

func (s *scanner) exponent(start, i int) (float32, bool) {
	if i < len(s.b) && (s.b[i] == '+' || s.b[i] == '-') {
		i++
	}
	first := i
	for i < len(s.b) && s.b[i]-'0' < 10 {
		i++
	}
	if i == first {
		return 0, false
	}
	s.i = i
	return nearest(s.b[start:i]), true
}

// nearest gives an infinity for what is too large.
func nearest(b []byte) float32 {
	f, err := strconv.ParseFloat(unsafe.String(&b[0], len(b)), 32)
	if err != nil && f == 0 {
		return float32(math.NaN())
	}
	return float32(f)
}
