module guestbook/web

go 1.26
