package main

import (
	"context"
	"errors"
	"sync"

	"github.com/FerretDB/FerretDB/internal/handler/handlererrors"
	"github.com/FerretDB/wire"
	"github.com/FerretDB/wire/wirebson"
)

type command = func(context.Context, *wire.OpMsg) (*wire.OpMsg, error)

var writing sync.Mutex

// FerretDB reads a document, changes it and writes it back while others do the same: of four clients' 400 `$inc` a hundred arrived. MongoDB changes a
// document atomically; here one write command runs at a time.
func oneAtATime(write command) command {
	return func(ctx context.Context, msg *wire.OpMsg) (*wire.OpMsg, error) {
		writing.Lock()
		defer writing.Unlock()
		return write(ctx, msg)
	}
}

// FerretDB ends an `update` command at the first of its updates that fails, `ordered: false` or not, and says neither which one that was nor how many were
// done. Here each update is a command of its own, and the answers are put together as MongoDB gives them.
func eachByItself(update command) command {
	return func(ctx context.Context, msg *wire.OpMsg) (*wire.OpMsg, error) {
		request, updates, err := split(msg)
		if err != nil || len(updates) == 0 {
			return update(ctx, msg) // it knows what to say about that
		}
		ordered := request.Get("ordered") != false
		var matched, modified int32
		upserted, failed := wirebson.MakeArray(0), wirebson.MakeArray(0)
		for index, one := range updates {
			reply, err := single(ctx, update, request, one)
			var refused *handlererrors.WriteErrors
			switch {
			case errors.As(err, &refused):
				for each := range refused.Document().Get("writeErrors").(*wirebson.Array).Values() {
					if err := addIndexed(failed, each.(*wirebson.Document), int32(index)); err != nil {
						return nil, err
					}
				}
			case err != nil:
				return nil, err
			default:
				matched += reply.Get("n").(int32)
				modified += reply.Get("nModified").(int32)
				if created, ok := reply.Get("upserted").(*wirebson.Array); ok {
					if err := addIndexed(upserted, created.Get(0).(*wirebson.Document), int32(index)); err != nil {
						return nil, err
					}
				}
			}
			if ordered && failed.Len() > 0 {
				break
			}
		}
		fields := []any{"n", matched, "nModified", modified}
		if upserted.Len() > 0 {
			fields = append(fields, "upserted", upserted)
		}
		if failed.Len() > 0 {
			fields = append(fields, "writeErrors", failed)
		}
		reply, err := wirebson.NewDocument(append(fields, "ok", float64(1))...)
		if err != nil {
			return nil, err
		}
		return wire.NewOpMsg(reply)
	}
}

// split gives the command without its updates, and the updates, which a client sends within the command or in a section of the message beside it.
func split(msg *wire.OpMsg) (*wirebson.Document, []any, error) {
	request, err := msg.RawSection0().Decode()
	if err != nil {
		return nil, nil, err
	}
	var updates []any
	if within, ok := request.Get("updates").(wirebson.AnyArray); ok {
		array, err := within.Decode()
		if err != nil {
			return nil, nil, err
		}
		for one := range array.Values() {
			updates = append(updates, one)
		}
		request.Remove("updates")
	}
	for _, section := range msg.Sections() {
		if section.Kind == 1 && section.Identifier == "updates" {
			for _, one := range section.Documents() {
				updates = append(updates, one)
			}
		}
	}
	return request, updates, nil
}

// single runs the command with one of its updates, and gives the decoded answer.
func single(ctx context.Context, update command, request *wirebson.Document, one any) (*wirebson.Document, error) {
	array, err := wirebson.NewArray(one)
	if err != nil {
		return nil, err
	}
	request.Remove("updates")
	if err := request.Add("updates", array); err != nil {
		return nil, err
	}
	msg, err := wire.NewOpMsg(request)
	if err != nil {
		return nil, err
	}
	reply, err := update(ctx, msg)
	if err != nil {
		return nil, err
	}
	return reply.RawSection0().DecodeDeep()
}

func addIndexed(to *wirebson.Array, entry *wirebson.Document, index int32) error {
	if err := entry.Replace("index", index); err != nil {
		return err
	}
	return to.Add(entry)
}
