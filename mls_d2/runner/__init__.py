"""Methods × tasks × seeds: planned, run, resumed and summed up; nothing finished is run again."""
