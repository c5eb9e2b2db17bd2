package report

import (
	"cmp"
	"math"
	"slices"
)

// A tag is a label that wants to stand at a height, and may have to give way.
type tag struct {
	want  float64 // the height of its first line's middle
	lines []string
	fixed bool // it must not be merged with another
	at    float64
	count int // how many flights it speaks for
}

func (t tag) height() float64 { return float64(len(t.lines)) * lineHeight }

// place lays tags out in one column between top and bottom so that none overlaps another and each stands as near as
// possible to where it wants to be. Where there are too many, the two nearest that may be merged become one, until they
// fit.
func place(tags []tag, top, bottom float64) []tag {
	tags = slices.Clone(tags)
	slices.SortStableFunc(tags, func(a, b tag) int { return cmp.Compare(a.want, b.want) })
	for total(tags) > bottom-top || displaced(spread(tags, top, bottom)) {
		i := nearest(tags)
		if i < 0 {
			break
		}
		tags[i] = merge(tags[i], tags[i+1])
		tags = slices.Delete(tags, i+1, i+2)
	}
	return spread(tags, top, bottom)
}

// farAway is how far a label may stand from its flight before labels are merged instead.
const farAway = 2.5 * lineHeight

func displaced(tags []tag) bool {
	return slices.ContainsFunc(tags, func(t tag) bool { return math.Abs(t.at-t.want) > farAway })
}

func total(tags []tag) float64 {
	sum := 0.0
	for _, t := range tags {
		sum += t.height()
	}
	return sum
}

// nearest finds the two neighbours that are closest to each other and may become one; -1 if none may.
func nearest(tags []tag) int {
	best := -1
	for i := 0; i+1 < len(tags); i++ {
		if tags[i].fixed || tags[i+1].fixed {
			continue
		}
		if best < 0 || tags[i+1].want-tags[i].want < tags[best+1].want-tags[best].want {
			best = i
		}
	}
	return best
}

// merge makes one tag of two: both texts where that is short, else the first and how many more there are.
func merge(a, b tag) tag {
	count := a.count + b.count
	lines := slices.Concat(a.lines, b.lines)
	if len(lines) > 2 || count > 2 {
		lines = []string{a.lines[0], moreWords(count - 1)}
	}
	return tag{want: a.want, lines: lines, count: count}
}

// spread solves it for tags in order by pooling: neighbours that would overlap form a block, which stands where its
// members are on average content.
func spread(tags []tag, top, bottom float64) []tag {
	type block struct {
		first, n int
		at, size float64 // of its top edge
		sum      float64 // of where the members would have the block's top edge
	}
	var blocks []block
	settle := func(b *block) { b.at = max(top, min(b.sum/float64(b.n), bottom-b.size)) }
	for i, t := range tags {
		b := block{first: i, n: 1, size: t.height(), sum: t.want - lineHeight/2}
		settle(&b)
		for len(blocks) > 0 && blocks[len(blocks)-1].at+blocks[len(blocks)-1].size > b.at {
			a := blocks[len(blocks)-1]
			blocks = blocks[:len(blocks)-1]
			b = block{first: a.first, n: a.n + b.n, size: a.size + b.size, sum: a.sum + b.sum - float64(b.n)*a.size}
			settle(&b)
		}
		blocks = append(blocks, b)
	}
	out := slices.Clone(tags)
	for _, b := range blocks {
		y := b.at
		for i := b.first; i < b.first+b.n; i++ {
			out[i].at = y + lineHeight/2
			y += out[i].height()
		}
	}
	return out
}
